/// The style sheet of all pages: light and dark, narrow and wide, on a screen and on paper.
///
/// Blue and orange are told apart with every kind of colour blindness, and never alone: a number or a label says the same.
enum PageStyle {
  static let text = """
    :root {
      color-scheme: light dark;
      --ground: #f7f8fa; --sheet: #ffffff; --ink: #1a1f29; --soft: #5b6472; --line: #e1e5eb; --faint: #f0f2f6;
      --blue: #2f6fde; --orange: #c8590a; --cell: #2f6fde; --worse: #c8590a; --ok: #1d7a4c;
    }
    @media (prefers-color-scheme: dark) {
      :root {
        --ground: #101318; --sheet: #181c23; --ink: #e7eaf0; --soft: #9aa4b4; --line: #2a303a; --faint: #20252e;
        --blue: #6b9df5; --orange: #f0913e; --cell: #3b70d6; --worse: #b9560f; --ok: #56c08c;
      }
    }
    * { box-sizing: border-box; }
    html { -webkit-text-size-adjust: 100%; }
    body {
      margin: 0; background: var(--ground); color: var(--ink);
      font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
    }
    main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 56px; }
    h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.015em; overflow-wrap: anywhere; }
    h1 small { font-size: 1em; font-weight: 400; color: var(--soft); }
    h2 { font-size: 1.12rem; margin: 0 0 4px; letter-spacing: -0.005em; }
    h2::first-letter { text-transform: uppercase; }
    h3 { font-size: 0.87rem; font-weight: 600; margin: 18px 0 8px; color: var(--soft); }
    p { margin: 0 0 12px; max-width: 72ch; }
    a { color: var(--blue); }
    code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: 0.86em; }
    pre { background: var(--faint); border-radius: 8px; padding: 12px 14px; overflow-x: auto; margin: 10px 0 0; }
    .soft { color: var(--soft); }
    .meta { color: var(--soft); margin: 0 0 20px; max-width: none; overflow-wrap: anywhere; }
    .state { color: var(--ok); font-weight: 600; }
    .state.bad { color: var(--orange); }
    section {
      background: var(--sheet); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; margin: 0 0 16px;
    }
    .tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin: 0 0 16px; }
    .tile { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
    .tile .label { font-size: 0.8rem; color: var(--soft); }
    .tile .value {
      font-size: 1.22rem; font-weight: 650; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; line-height: 1.3;
      white-space: nowrap;
    }
    .tile .detail { font-size: 0.8rem; color: var(--soft); line-height: 1.4; overflow-wrap: anywhere; }
    .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 4px 36px; }
    ol.steps { margin: 6px 0 0; padding: 0 0 0 20px; }
    ol.steps li { margin: 0 0 6px; }
    ol.steps a { white-space: nowrap; }
    dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 14px; margin: 6px 0 0; align-content: start; }
    dl.facts dt { color: var(--soft); }
    dl.facts dd { margin: 0; overflow-wrap: anywhere; }
    .scroll { overflow-x: auto; margin: 0 -6px; padding: 0 6px; }
    table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
    th, td { text-align: right; padding: 6px 0 6px 18px; border-bottom: 1px solid var(--line); white-space: nowrap; }
    th { font-size: 0.8rem; font-weight: 500; color: var(--soft); vertical-align: bottom; }
    th:first-child, td:first-child { text-align: left; }
    th:first-child, td:first-child { padding-left: 0; }
    tr:last-child td { border-bottom: 0; }
    td.name { white-space: normal; overflow-wrap: anywhere; min-width: 12ch; }
    table.even { table-layout: fixed; }
    table.even th:first-child { width: 40%; }
    td.strong { font-weight: 600; }
    td.wide { width: 34%; min-width: 90px; }
    td .soft { font-size: 0.86em; }
    .bar { position: relative; display: block; height: 10px; background: var(--faint); border-radius: 5px; }
    .bar i { position: absolute; inset: 0 auto 0 0; min-width: 2px; background: var(--blue); border-radius: 5px; }
    .bar b { position: absolute; top: -4px; bottom: -4px; width: 2px; margin-left: -1px; background: var(--orange); }
    .key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 0.82rem; color: var(--soft); margin: 8px 0 6px; }
    .key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
    .key .tick { width: 2px; border-radius: 0; margin: 0 10px 0 5px; }
    .isBlue { background: var(--blue); }
    .isOrange { background: var(--orange); }
    .isGrey { background: var(--soft); }
    svg { display: block; max-width: none; font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    svg .axis { fill: var(--soft); font-size: 11px; }
    svg .label { fill: var(--ink); font-size: 12.5px; }
    svg .better { fill: var(--cell); }
    svg .worse { fill: var(--worse); }
    svg .on { fill: #ffffff; font-variant-numeric: tabular-nums; }
    svg .off { fill: var(--ink); font-variant-numeric: tabular-nums; }
    svg .grid { stroke: var(--line); stroke-width: 1; }
    svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
    svg .before { stroke: var(--soft); stroke-dasharray: 3 2.5; }
    svg .after { stroke: var(--blue); }
    svg .beforeDot { fill: var(--soft); }
    svg .afterDot { fill: var(--blue); }
    .panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(152px, 1fr)); gap: 14px 16px; }
    .panels figure, .masks figure { margin: 0; }
    .panels svg { width: 100%; height: auto; }
    figcaption { font-size: 0.82rem; overflow-wrap: anywhere; }
    .masks { display: grid; grid-template-columns: repeat(auto-fill, minmax(226px, 1fr)); gap: 20px 24px; }
    .masks .pair { display: flex; gap: 10px; align-items: flex-start; margin: 0 0 6px; }
    .masks .pair div { flex: 1 1 0; min-width: 0; max-width: 190px; }
    .masks img {
      display: block; width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line); border-radius: 4px;
      background: var(--sheet);
    }
    .masks .what { font-size: 0.74rem; color: var(--soft); }
    dl.words { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 8px 0 0; font-size: 0.92em; }
    dl.words dt { font-weight: 600; }
    dl.words dd { margin: 0; max-width: 76ch; }
    summary { cursor: pointer; color: var(--soft); margin-top: 12px; }
    footer { color: var(--soft); font-size: 0.82rem; }
    @media (max-width: 1000px) { .tiles { grid-template-columns: repeat(3, 1fr); } }
    @media (max-width: 560px) {
      main { padding: 18px 12px 36px; }
      section { padding: 16px 14px; border-radius: 10px; }
      h1 { font-size: 1.4rem; }
      .tiles { grid-template-columns: repeat(2, 1fr); gap: 8px; }
      .tile { padding: 10px 12px; }
      .tile .value { font-size: 1.12rem; }
      .wide { display: none; }
      table { font-size: 0.92em; }
      th, td { padding-left: 10px; }
      td.name { min-width: 8ch; }
      .masks { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 16px 14px; }
      .masks .pair { gap: 6px; }
      dl.words { grid-template-columns: 1fr; gap: 0; }
      dl.words dd { margin: 0 0 8px; }
    }
    @media print {
      :root {
        --ground: #fff; --sheet: #fff; --ink: #000; --soft: #444; --line: #ccc; --faint: #eee; --blue: #2f6fde;
        --orange: #c8590a; --cell: #2f6fde; --worse: #c8590a;
      }
      body { font-size: 10.5pt; }
      main { max-width: none; padding: 0; }
      section, .tile { border-color: #ccc; }
      section, .tile, figure, tr { break-inside: avoid; }
      * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
    }
    """
}
