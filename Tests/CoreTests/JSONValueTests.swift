import EspalierCore
import Foundation
import Testing

@Suite struct JSONValueTests {
  @Test func valuesAreOnlyWhatTheyAre() throws {
    let value = try JSON(
      parsing: #"{"i":3,"w":3.0,"f":3.5,"s":"3","b":true,"n":null,"a":[1],"o":{},"l":1e300}"#)
    #expect(value["i"]?.integer == 3 && value["w"]?.integer == 3 && value["f"]?.integer == nil)
    #expect(value["s"]?.integer == nil && value["b"]?.integer == nil && value["l"]?.integer == nil)
    #expect(value["i"]?.double == 3 && value["f"]?.double == 3.5 && value["s"]?.double == nil)
    #expect(value["s"]?.string == "3" && value["i"]?.string == nil)
    #expect(value["b"]?.bool == true && value["i"]?.bool == nil)
    #expect(value["a"]?.array?.count == 1 && value["o"]?.array == nil && value["o"]?.object != nil)
    #expect(value["n"] == nil && value.object?["n"]?.isNull == true)
    #expect(value["missing"] == nil && value["a"]?["i"] == nil && JSON.null["a"] == nil)
  }

  @Test func literalsMakeValues() {
    let value: JSON = ["a": 1, "b": [true, 2.5, "x"], "c": [:], "d": []]
    #expect(value.text == #"{"a":1,"b":[true,2.5,"x"],"c":{},"d":[]}"#)
  }

  @Test func prettyTextHasAMemberALine() {
    let value: JSON = ["a": [1, ["b": "x"]], "c": [], "d": [:]]
    #expect(
      value.prettyText == """
        {
          "a": [
            1,
            {
              "b": "x"
            }
          ],
          "c": [],
          "d": {}
        }
        """)
  }

  @Test func canonicalTextDoesNotDependOnTheOrderOfMembers() throws {
    let one = try JSON(parsing: #"{"b":[{"z":1,"y":2}],"a":{"d":1,"c":2},"B":0,"é":0,"":0}"#)
    let two = try JSON(parsing: #"{"":0,"é":0,"B":0,"a":{"c":2,"d":1},"b":[{"y":2,"z":1}]}"#)
    #expect(one != two && one.canonical == two.canonical)
    #expect(one.canonical.text == #"{"":0,"B":0,"a":{"c":2,"d":1},"b":[{"y":2,"z":1}],"é":0}"#)
    #expect(try JSON(parsing: "[2,1]").canonical.text == "[2,1]")
  }

  @Test func numbersThatAreNotFiniteBecomeNull() {
    #expect(JSON.array([.number(.nan), .number(.infinity), .number(-0.0)]).text == "[null,null,-0.0]")
  }

  @Test func everyDoubleSurvives() throws {
    for value in [
      0.1, 1.0 / 3, Double.leastNonzeroMagnitude, .greatestFiniteMagnitude, 1e21, 123_456_789.125, -2.5e-7,
    ] {
      #expect(try JSON(parsing: JSON.number(value).text).double == value)
    }
  }

  @Test func anotherParserReadsTheText() throws {
    let strings =
      (0...0x7F).compactMap(Unicode.Scalar.init).map { String($0) } + [
        "é", "e\u{301}", "😀", "\u{2028}", "\u{FFFF}",
      ]
    let value = JSON.object(
      JSONObject([
        (key: "strings", value: .array(strings.map { .string($0) })), (key: "pi", value: 3.25),
        (key: "n", value: -7),
      ]))
    for text in [value.text, value.prettyText] {
      let read = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
      #expect((read["strings"] as? [String])?.map { Array($0.utf8) } == strings.map { Array($0.utf8) })
      #expect(read["pi"] as? Double == 3.25 && read["n"] as? Int == -7)
    }
  }
}
