/// The page of one run. Names in two braces are escaped; in three, they were escaped by the program.
enum RunPageTemplate {
  static let text = #"""
    {{> head}}
    <meta name="generator" content="espalier {{version}}">
    </head>
    <body>
    <main>
    <header>
    <h1>{{model}}{{#goal}} <small>pruned to {{goal}}</small>{{/goal}}</h1>
    <p class="meta"><span class="state{{^isFinished}} bad{{/isFinished}}">{{state}}</span>{{#reason}}: {{reason}}{{/reason}}{{#started}} &middot; started {{started}}{{/started}}{{#version}} &middot; espalier {{version}}{{/version}}</p>
    </header>

    <div class="tiles">
    {{#tiles}}
    <div class="tile"><div class="label">{{label}}</div><div class="value">{{value}}</div><div class="detail">{{detail}}</div></div>
    {{/tiles}}
    </div>

    <section>
    <h2>What was done</h2>
    <div class="columns">
    <ol class="steps">
    {{#steps}}
    <li>{{text}}{{#papers}} <a href="{{address}}">{{name}}</a>{{/papers}}</li>
    {{/steps}}
    </ol>
    <dl class="facts">
    {{#facts}}
    <dt>{{name}}</dt><dd>{{value}}</dd>
    {{/facts}}
    </dl>
    </div>
    {{#recipe}}
    <details><summary>The recipe</summary><pre>{{recipe}}</pre></details>
    {{/recipe}}
    </section>

    {{^empty(measures)}}
    <section>
    <h2>Dense against pruned</h2>
    <div class="scroll"><table>
    <thead><tr><th></th><th>dense</th><th>pruned</th></tr></thead>
    <tbody>
    {{#measures}}
    <tr><td class="name">{{measure}}<br><span class="soft">{{subject}}</span></td><td>{{dense}}</td><td class="strong">{{pruned}}</td></tr>
    {{/measures}}
    </tbody></table></div>
    </section>
    {{/empty(measures)}}

    {{#hasHeatMap}}
    <section>
    <h2>Error removed, by block and kind of matrix</h2>
    <p class="soft">How much of the first mask's output error the later stages removed, in per cent. A stronger colour is more; the scale ends at the largest value.</p>
    {{#hasWorse}}<div class="key"><span><i class="isBlue"></i>less error</span><span><i class="isOrange"></i>more error than at first</span></div>{{/hasWorse}}
    <div class="scroll">{{{heatMap}}}</div>
    </section>
    {{/hasHeatMap}}

    {{^empty(panels)}}
    <section>
    <h2>Error before and after</h2>
    <p class="soft">Output error on the calibration text, block by block, on one logarithmic scale.</p>
    <div class="key"><span><i class="isGrey"></i>first mask</span><span><i class="isBlue"></i>after the last stage</span></div>
    <div class="panels">
    {{#panels}}
    <figure><figcaption>{{{name}}}</figcaption>{{{svg}}}</figure>
    {{/panels}}
    </div>
    </section>
    {{/empty(panels)}}

    {{^empty(errors)}}
    <section>
    <h2>Error by stage</h2>
    <div class="scroll"><table>
    <thead><tr><th>stage</th><th>matrices</th><th>error before</th><th>error after</th><th>mean reduction</th><th>of the sum</th>{{#hasGaps}}<th>gap at most</th>{{/hasGaps}}{{#hasSwaps}}<th>swaps</th>{{/hasSwaps}}</tr></thead>
    <tbody>
    {{#errors}}
    <tr><td>{{stage}}</td><td>{{matrices}}</td><td>{{before}}</td><td>{{after}}</td><td class="strong">{{mean}}</td><td>{{ofSum}}</td>{{#hasGaps}}<td>{{gap}}</td>{{/hasGaps}}{{#hasSwaps}}<td>{{swaps}}</td>{{/hasSwaps}}</tr>
    {{/errors}}
    </tbody></table></div>
    </section>
    {{/empty(errors)}}

    <section>
    <h2>Time and memory by stage</h2>
    <p class="soft">{{memory}}</p>
    {{#hasPlannedTimes}}<div class="key"><span><i class="isBlue"></i>took</span><span><i class="isOrange tick"></i>planned</span></div>{{/hasPlannedTimes}}
    <div class="scroll"><table>
    <thead><tr><th>stage</th><th>units</th><th>time</th>{{#hasPlannedTimes}}<th>planned</th>{{/hasPlannedTimes}}<th class="wide"></th><th>memory</th><th>planned</th></tr></thead>
    <tbody>
    {{#times}}
    <tr><td>{{stage}}</td><td>{{units}}</td><td class="strong">{{time}}</td>{{#hasPlannedTimes}}<td>{{planned}}</td>{{/hasPlannedTimes}}<td class="wide"><span class="bar"><i style="width: {{timeShare}}%"></i>{{#hasPlan}}<b style="left: {{plannedShare}}%"></b>{{/hasPlan}}</span></td><td>{{memory}}</td><td>{{plannedMemory}}</td></tr>
    {{/times}}
    </tbody></table></div>
    </section>

    {{#expertText}}
    <section>
    <h2>Experts with few tokens</h2>
    <p class="soft">{{expertText}}</p>
    <div class="scroll"><table>
    <thead><tr><th>block</th><th>inputs with few tokens</th><th>of</th><th>fewest tokens</th><th>inputs wide</th></tr></thead>
    <tbody>
    {{#experts}}
    <tr><td>{{block}}</td><td>{{few}}</td><td>{{all}}</td><td>{{fewest}}</td><td>{{width}}</td></tr>
    {{/experts}}
    </tbody></table></div>
    </section>
    {{/expertText}}

    {{^empty(worst)}}
    <section>
    <h2>Matrices to look at</h2>
    <div class="columns">
    <div>
    <h3>Most of the error that is left</h3>
    <div class="scroll"><table>
    <thead><tr><th>matrix</th><th>of all error</th><th>removed</th></tr></thead>
    <tbody>
    {{#worst}}
    <tr><td class="name">{{{name}}}<span class="bar"><i style="width: {{share}}%"></i></span></td><td class="strong">{{value}}</td><td class="soft">{{detail}}</td></tr>
    {{/worst}}
    </tbody></table></div>
    </div>
    <div>
    <h3>Most time</h3>
    <div class="scroll"><table>
    <thead><tr><th>matrix</th><th>time</th><th>swaps</th></tr></thead>
    <tbody>
    {{#slowest}}
    <tr><td class="name">{{{name}}}<span class="bar"><i style="width: {{share}}%"></i></span></td><td class="strong">{{value}}</td><td class="soft">{{detail}}</td></tr>
    {{/slowest}}
    </tbody></table></div>
    </div>
    </div>
    </section>
    {{/empty(worst)}}

    {{^empty(masks)}}
    <section>
    <h2>Sparsity patterns</h2>
    <p class="soft">One mask of each kind, from a block in the middle. Inputs run to the right, outputs down; blue is kept. In a whole matrix, the strongest blue keeps the most.</p>
    <div class="masks">
    {{#masks}}
    <figure>
    <div class="pair">
    {{#whole}}<div><img alt="The whole mask of {{name}}" style="aspect-ratio: {{ratio}}" src="{{whole}}"><span class="what">whole matrix</span></div>{{/whole}}
    {{#corner}}<div><img alt="The first weights of the mask of {{name}}" src="{{corner}}"><span class="what">first weights</span></div>{{/corner}}
    </div>
    <figcaption>{{{shownName}}}<br><span class="soft">{{caption}}</span></figcaption>
    </figure>
    {{/masks}}
    </div>
    </section>
    {{/empty(masks)}}

    {{^empty(coverage)}}
    <section>
    <h2>Where the parameters are</h2>
    <div class="scroll"><table>
    <thead><tr><th>tensors</th><th>count</th><th>parameters</th><th>share</th><th class="wide"></th></tr></thead>
    <tbody>
    {{#coverage}}
    <tr><td class="name">{{{name}}}<br><span class="soft">{{kind}}</span></td><td>{{count}}</td><td>{{parameters}}</td><td>{{share}}</td><td class="wide"><span class="bar"><i style="width: {{width}}%"></i></span></td></tr>
    {{/coverage}}
    </tbody></table></div>
    </section>
    {{/empty(coverage)}}

    <section>
    <h2>Words</h2>
    <dl class="words">
    {{#glossary}}
    <dt>{{word}}</dt><dd>{{meaning}}</dd>
    {{/glossary}}
    </dl>
    </section>
    <footer>Made by espalier {{version}} from the manifests and events of the run. This page holds all that it shows.</footer>
    </main>
    </body>
    </html>

    """#
}
