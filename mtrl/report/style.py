"""The look of a report's HTML page: on a phone, on paper, light and dark."""

__all__ = ["STYLE"]

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #333333; --grey: #6f6f6f; --faint: #e3e3e3;
  --link: #0b5cad; --mark: #fdf0c2; --warn: #b23c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #dddddd; --grey: #a0a0a0; --faint: #3a3d42;
    --link: #7db8f0; --mark: #5a4a12; --warn: #ff9a5c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--faint); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; padding: 0; margin: 0; list-style: none; }
nav a { display: inline-block; padding: 0.35rem 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table {
  border-collapse: collapse; font-size: 0.875rem; margin: 0.5rem 0 1rem; width: max-content;
  min-width: min(100%, 28rem);
}
caption { text-align: left; color: var(--grey); padding-bottom: 0.3rem; }
caption span { display: block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td {
  text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0;
  border-bottom: 1px solid var(--faint); font-variant-numeric: tabular-nums;
  overflow-wrap: normal; max-width: 32rem;
}
tbody th { font-weight: 500; }
mark { background: var(--mark); color: inherit; padding: 0 0.2em; }
.problems { border-left: 4px solid var(--warn); padding: 0.25rem 0.5rem 0.25rem 1.75rem; }
pre {
  overflow-x: auto; padding: 0.75rem; border: 1px solid var(--faint); font-size: 0.8125rem;
}
.gallery {
  display: grid; gap: 1rem; margin: 0.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
}
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure img { display: block; max-width: 100%; height: auto; }
figure.light .scroll { background: #ffffff; }
figcaption { color: var(--grey); font-size: 0.875rem; }
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --grey: #444444; --faint: #bbbbbb;
    --link: #000000; --mark: #eeeeee; --warn: #000000;
  }
  @page { margin: 1.5cm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, pre { overflow: visible; }
  table { font-size: 7.5pt; width: auto; }
  caption span { max-width: none; }
  th, td { overflow-wrap: anywhere; padding-right: 0.5rem; }
  thead { display: table-header-group; }
  tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
  mark { font-weight: bold; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .gallery { grid-template-columns: 1fr 1fr; }
  figure svg { min-width: 0 !important; }
}
"""
