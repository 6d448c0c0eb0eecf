"""How a picture looks: colours for light and dark ground, and the style sheet that carries both.

Kinds differ in colour (after Okabe and Ito, told apart by the colour-blind), in their sign and in a word. Boxes bring their own ground;
what lies beside them is of a grey that reads on white and on black, for pages whose ground is not what the browser believes.
"""

from __future__ import annotations

COLOURS = {
    "paper": ("#ffffff", "#20252e"), "ink": ("#1c2430", "#e8ebf0"), "soft": ("#5d6878", "#a3adbb"), "rim": ("#c3cad4", "#475160"),
    "pane": ("#f3f5f8", "#191d24"), "wire": ("#7d8898", "#7d8898"), "trainable": ("#0069a8", "#56b4e9"),
    "stateless": ("#66717f", "#9ba6b4"), "opaque": ("#a8428c", "#e291c9"), "loop": ("#007a5a", "#35c79b"),
    "branch": ("#9c5a00", "#eba63c"), "hit": ("#00694e", "#4fd3aa"), "failed": ("#c21f2b", "#ff7b7f"),
}
"""On light and on dark ground."""

SIGNS = {
    "trainable": "M0 -4.5h9v9h-9z", "stateless": "M.6 0a3.9 3.9 0 1 0 7.8 0a3.9 3.9 0 1 0 -7.8 0z", "opaque": "M0 4.2l4.8 -8.6l4.8 8.6z",
    "loop": "M8.3 -1.6a4 4 0 1 0 .3 2.4M8.8 -4.6v3.2h-3.2", "branch": "M0 0l4.8 -4.8l4.8 4.8l-4.8 4.8z",
}
"""Outlines, 9 pixels wide, around the middle of a line. Those of `HOLLOW` are not filled."""
HOLLOW = ("stateless", "loop")

BADGES = {"memory": "hit", "disk": "hit", "shared": "hit", "failed": "failed", "skipped": "soft"}
"""The colour of each mark."""

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"



def sheet(prefix: str) -> str:
    """The style sheet of one picture. It names classes with the prefix only, so it touches nothing else on the page."""
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1))
    rules = [
        f".${{{light}}}", f"@media (prefers-color-scheme:dark){{.${{{dark}}}}}",
        # notebooks with a theme of their own say which
        f"[data-jp-theme-light=true] .$,.vscode-light .${{{light}}}", f"[data-jp-theme-light=false] .$,.vscode-dark .${{{dark}}}",
        f".$ text{{font:10px {SANS};stroke:none;{_paint('fill', 'soft')}}}",
        f".$ .$-id{{font-size:13px;font-weight:600;{_paint('fill', 'ink')}}}",
        f".$ .$-label{{font:11px {MONO}}}",
        f".$ .$-heading{{font-size:14px;font-weight:600;{_paint('fill', 'wire')}}}",
        f".$ .$-beside{{{_paint('fill', 'wire')}}}",
        f".$-face{{{_paint('fill', 'paper')};{_paint('stroke', 'rim')}}}",
        f".$-pane{{{_paint('fill', 'pane')};stroke:none}}",
        f".$-group,.$-entry{{fill:none;{_paint('stroke', 'wire')}}}", ".$-group{stroke-dasharray:5 4}",
        f".$-wire{{fill:none;{_paint('stroke', 'wire')};stroke-width:1.5;stroke-linecap:round;stroke-linejoin:round}}",
        f".$-wire:hover{{{_paint('stroke', 'trainable')};stroke-width:3}}",
        *(f".$-{kind}{{{_paint('fill', kind)};{_paint('stroke', kind)}}}" for kind in SIGNS), ".$ .$-hollow{fill:none;stroke-width:1.6}",
        ".$-skipped>:not(.$-face){opacity:.65}", ".$-skipped>.$-face{stroke-dasharray:4 3}",
        f".$-failed>.$-face{{{_paint('stroke', 'failed')};stroke-width:2}}",
        *(f".$-badge-{mark} rect{{fill:none;{_paint('stroke', colour)}}}.$ .$-badge-{mark} text{{font-weight:600;{_paint('fill', colour)}}}"
          for mark, colour in BADGES.items()),
    ]
    return "".join(rules).replace("$", prefix)


def _paint(what: str, colour: str) -> str:
    """The colour for programs that know no variables, then the one that follows the ground."""
    return f"{what}:{COLOURS[colour][0]};{what}:var(--{colour})"
