"""The package with the real program, which ESPALIER_PROGRAM names or the installed package holds."""

import json
import os
import shutil
import struct
import sys
import tempfile
import unittest
from pathlib import Path

import espalier
from espalier import calibration
from espalier._program import call

try:
    import numpy
except ImportError:
    numpy = None
try:
    import pandas
except ImportError:
    pandas = None
try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None
try:
    import datasets
except ImportError:
    datasets = None
try:
    import jinja2
    import transformers
except ImportError:
    jinja2 = transformers = None

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
SMALL = {"tokenize.samples": 8, "tokenize.length": 128, "tokenize.corpus": DEMO / "calibration.txt"}


class Place(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)


class Jobs(Place):
    def run_demo(self, recipe=ROOT / "pipelines" / "wanda-50.yaml", **options):
        lines = []
        options = {"set": SMALL, "memory": "512MiB", "progress": lines.append, **options}
        report = espalier.run(recipe, model=DEMO, output=self.folder / "out", **options)
        return report, lines

    def test_a_model_is_pruned_and_reported(self):
        report, lines = self.run_demo()
        self.assertEqual(report["state"], "finished")
        self.assertTrue(any("warmStart/model.layers.0" in line for line in lines))
        self.assertEqual(report, espalier.report(self.folder / "out.work"))
        self.assertEqual({matrix["kept"] * 2 == matrix["rows"] * matrix["columns"] for matrix in report["matrices"]}, {True})

    def test_a_plan_leaves_nothing_behind(self):
        plan = espalier.plan(ROOT / "pipelines" / "best-2of4.yaml", model=DEMO, output=self.folder / "out", set=SMALL)
        self.assertGreater(plan["units"], 35)
        self.assertEqual(os.listdir(self.folder), [])

    def test_lists_numbers_and_definitions_reach_the_recipe(self):
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(f"extends: {ROOT}/pipelines/wanda-50.yaml\nstages:\n  - warmStart: {{sparsity: ${{SPARSITY}}}}\n")
        other = self.folder / "other text.txt"
        other.write_bytes((DEMO / "heldout.txt").read_bytes())
        corpus = [{"file": DEMO / "calibration.txt", "weight": 3}, other]
        report, _ = self.run_demo(recipe, set={**SMALL, "tokenize.corpus": corpus}, define={"SPARSITY": 0.75})
        self.assertEqual({m["kept"] * 4 == m["rows"] * m["columns"] for m in report["matrices"]}, {True})
        sources = report["corpora"][0]["corpus"]["sources"]
        self.assertEqual([(s["name"], s["samples"]) for s in sources], [("calibration.txt", 6), ("other text.txt", 2)])

    def test_a_refusal_says_why_with_the_code_of_the_program(self):
        with self.assertRaises(espalier.EspalierError) as caught:
            self.run_demo(set={**SMALL, "warmStart.sparsty": 0.5})
        self.assertEqual(caught.exception.exit_code, 64)
        self.assertIn("Did you mean sparsity?", str(caught.exception))
        self.assertFalse(str(caught.exception).startswith("espalier:"))

    def test_an_interrupt_stops_the_program_once_and_the_same_call_continues(self):
        interrupted = []

        def interrupt(line):
            if "warmStart" in line and not interrupted:
                interrupted.append(line)
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.run_demo(progress=interrupt)
        report = espalier.report(self.folder / "out.work")
        self.assertEqual(report["state"], "stopped")
        report, _ = self.run_demo()
        self.assertEqual(report["state"], "finished")

    @unittest.skipUnless(pandas, "pandas is absent")
    def test_a_data_frame_has_a_row_for_each_matrix_and_stage(self):
        report, _ = self.run_demo(ROOT / "pipelines" / "sparseswaps-60.yaml")
        frame = report.data_frame()
        self.assertEqual(len(frame), sum(len(matrix["stages"]) for matrix in report["matrices"]))
        self.assertTrue((frame["lossAfter"] > 0).all())


@unittest.skipUnless(numpy, "numpy is absent")
class Masks(Place):
    def test_masks_of_the_run_of_the_output_and_of_the_compact_output_agree(self):
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(
            f"extends: {ROOT}/pipelines/wanda-50.yaml\n"
            "stages:\n  - warmStart: {sparsity: , keep: 2, of: 4}\n"
        )
        espalier.run(recipe, model=DEMO, output=self.folder / "out", set=SMALL, progress=False)
        call(["pack", str(self.folder / "out"), str(self.folder / "out-compact")])
        work = dict(espalier.masks(self.folder / "out.work"))
        dense = dict(espalier.masks(self.folder / "out"))
        compact = dict(espalier.masks(self.folder / "out-compact"))
        self.assertEqual(len(work), 35)
        self.assertEqual(work.keys(), dense.keys())
        self.assertEqual(work.keys(), compact.keys())
        for name, mask in work.items():
            self.assertEqual(mask.dtype, bool)
            self.assertTrue((mask.reshape(-1, 4).sum(axis=1) == 2).all(), name)
            numpy.testing.assert_array_equal(dense[name], compact[name])
            # A kept weight may be zero itself.
            self.assertFalse((dense[name] & ~mask).any(), name)
            self.assertGreater((dense[name] == mask).mean(), 0.999)

    def test_another_folder_is_refused(self):
        with self.assertRaises(espalier.EspalierError):
            espalier.masks(self.folder)


def words(row):
    """A tokenizer for tests: a number for each character."""
    text = row if isinstance(row, str) else "".join(message["content"] for message in row)
    return [ord(character) for character in text]


class Calibration(Place):
    def tokens(self, path):
        data = Path(path).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        entry = json.loads(data[8 : 8 + length])["input_ids"]
        self.assertEqual(entry["dtype"], "I32")
        count = entry["shape"][0] * entry["shape"][1]
        return entry["shape"], list(struct.unpack(f"<{count}i", data[8 + length :]))

    def test_rows_are_joined_and_cut_and_only_those_needed_are_read(self):
        path = self.folder / "tokens.safetensors"
        rows = iter(["abc", [{"role": "user", "content": "de"}], "fghij", "never"])
        self.assertEqual(calibration.write(path, rows, tokenizer=words, samples=2, length=4), 3)
        self.assertEqual(self.tokens(path), ([2, 4], [ord(c) for c in "abcdefgh"]))
        self.assertEqual(next(rows), "never")
        self.assertEqual(os.listdir(self.folder), ["tokens.safetensors"])

    def test_too_few_tokens_are_an_error_and_leave_no_file(self):
        with self.assertRaisesRegex(ValueError, "1 rows have 3 tokens; 2 samples of 4 need 8"):
            calibration.write(self.folder / "t.safetensors", ["abc"], tokenizer=words, samples=2, length=4)
        with self.assertRaisesRegex(ValueError, "ending"):
            calibration.write(self.folder / "t.txt", ["abc"], tokenizer=words, samples=1, length=2)
        self.assertEqual(os.listdir(self.folder), [])

    def test_chats_and_texts_come_from_json_lines(self):
        path = self.folder / "chats.jsonl"
        chat = [{"role": "user", "content": "é"}]
        path.write_text(json.dumps({"messages": chat}) + "\n\n" + json.dumps({"messages": "a text"}) + "\n")
        self.assertEqual(list(calibration.from_json_lines(path)), [chat, "a text"])
        with self.assertRaisesRegex(ValueError, "chats.jsonl:1: there is no column 'text'; it has: messages"):
            list(calibration.from_json_lines(path, column="text"))
        path.write_text(json.dumps({"messages": [1]}) + "\n")
        with self.assertRaisesRegex(ValueError, "neither a text nor a list of messages"):
            list(calibration.from_json_lines(path))

    @unittest.skipUnless(pyarrow, "pyarrow is absent")
    def test_columns_of_parquet_files(self):
        path = self.folder / "chats.parquet"
        chats = [[{"role": "user", "content": str(n)}] for n in range(600)]
        pyarrow.parquet.write_table(pyarrow.table({"messages": chats, "text": [str(n) for n in range(600)]}), path)
        self.assertEqual(list(calibration.from_parquet(path, column="messages")), chats)
        self.assertEqual(list(calibration.from_parquet(path))[599], "599")
        with self.assertRaisesRegex(ValueError, "it has: messages, text"):
            list(calibration.from_parquet(path, column="prompt"))

    @unittest.skipUnless(datasets, "datasets is absent")
    def test_columns_of_data_sets(self):
        path = self.folder / "chats.jsonl"
        chats = [[{"role": "user", "content": str(n)}] for n in range(3)]
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
        # The hub's loader also reads files.
        rows = calibration.from_hub("json", data_files=str(path), column="messages", cache_dir=str(self.folder / "cache"))
        self.assertEqual(list(rows), chats)
        with self.assertRaisesRegex(ValueError, "json, row 1: there is no column 'text'; it has: messages"):
            list(calibration.from_hub("json", data_files=str(path)))

    def test_the_program_prunes_with_the_tokens(self):
        path = self.folder / "tokens.safetensors"
        text = (DEMO / "calibration.txt").read_text()
        calibration.write(path, [text], tokenizer=lambda row: [ord(c) % 1000 for c in row], samples=8, length=128)
        report = espalier.run(
            ROOT / "pipelines" / "wanda-50.yaml", model=DEMO, output=self.folder / "out", progress=False,
            set={**SMALL, "tokenize.corpus": path},
        )
        self.assertEqual(report["state"], "finished")

    @unittest.skipUnless(transformers, "transformers or jinja2 is absent")
    def test_the_tokenizers_own_template_writes_chats(self):
        tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
        tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        path = self.folder / "tokens.safetensors"
        chat = [{"role": "user", "content": "Tom has a red ball. " * 4}]
        calibration.write(path, [chat], tokenizer=tokenizer, samples=1, length=16)
        expected = tokenizer("<user>" + chat[0]["content"], add_special_tokens=False)["input_ids"]
        self.assertEqual(self.tokens(path)[1], expected[:16])
        calibration.write(path, ["Tom has a red ball. " * 4], tokenizer=DEMO, samples=1, length=16)
        self.assertEqual(self.tokens(path)[1][0], tokenizer.bos_token_id)


if __name__ == "__main__":
    unittest.main()
