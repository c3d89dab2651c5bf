"""The page to try a service by hand: one file, no other host, no cookie, nothing stored.

Example:
    >>> "http" in PAGE, CONTENT_SECURITY_POLICY.startswith("default-src 'none'")
    (False, True)
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["CONTENT_SECURITY_POLICY", "PAGE"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1d2730; }
h1 { font-size: 1.4rem } label { display: block; margin-top: 1rem }
input[type=password], textarea { width: 100%; box-sizing: border-box; padding: .4rem;
  font: 14px ui-monospace, monospace }
textarea { height: 9rem } canvas { border: 1px solid #8a97a3; width: 224px; height: 224px; image-rendering: pixelated;
  background: #000; touch-action: none; display: block; margin: .5rem 0 }
button { font: inherit; padding: .4rem 1.1rem; margin: .5rem .5rem 0 0 }
#said { color: #4a5661 } #answer { font-size: 1.2rem; min-height: 2rem; white-space: pre-wrap }
.bar { display: grid; grid-template-columns: 8rem 1fr 4rem; gap: .5rem; align-items: center; font-size: .9rem }
.bar div { background: #2f6f9f; height: .7rem; border-radius: 2px }
"""

_SCRIPT = """
'use strict';
const by = id => document.getElementById(id);
let model = null, pixels = null;
const headers = () => ({'Authorization': 'Bearer ' + by('key').value.trim(), 'Content-Type': 'application/json'});

function draw() {
  const [height, width] = model.input_shape.slice(-2), canvas = by('canvas');
  canvas.width = width; canvas.height = height; pixels = new Float32Array(width * height);
  const context = canvas.getContext('2d');
  const paint = () => {
    const image = context.createImageData(width, height);
    pixels.forEach((value, i) => { image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i); });
    context.putImageData(image, 0, 0);
  };
  const stroke = event => {
    if (!event.buttons) return;
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * width, y = (event.clientY - box.top) / box.height * height;
    for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
      const far = Math.hypot(column + .5 - x, row + .5 - y), ink = Math.max(0, Math.min(1, 1.9 - far));
      pixels[row * width + column] = Math.max(pixels[row * width + column], ink);
    }
    paint();
  };
  canvas.onpointerdown = canvas.onpointermove = stroke;
  by('clear').onclick = () => { pixels.fill(0); paint(); };
  paint();
}

function show(answers) {
  by('bars').replaceChildren();
  by('answer').textContent = answers.map(each => each.class ?? 'class ' + each.label).join(', ');
  (answers[0].scores ?? []).forEach((score, i) => {
    const row = document.createElement('div'), bar = document.createElement('div');
    const name = document.createElement('span'), number = document.createElement('span');
    row.className = 'bar'; number.textContent = score.toFixed(3);
    name.textContent = model.class_names?.[i] ?? 'class ' + i;
    bar.style.width = 100 * Math.max(0, Math.min(1, score)) + '%';
    row.append(name, bar, number); by('bars').append(row);
  });
}

async function call(path, body) {
  const response = await fetch(path, body ? {method: 'POST', headers: headers(), body} : {headers: headers()});
  const content = await response.json();
  if (!response.ok) throw new Error(content.error.name + ': ' + content.error.message);
  return content;
}

async function guarded(action) {
  by('answer').textContent = '';
  try { await action(); } catch (error) { by('answer').textContent = error.message; }
}

by('open').onclick = () => guarded(async () => {
  model = await call('/v1/model');
  by('said').textContent = model.guarantee;
  const shape = model.input_shape, image = shape.length === 3 && shape[0] === 1;
  by('drawing').hidden = !image; by('typing').hidden = image; by('ask').hidden = false;
  if (image) draw();
  by('text').placeholder = 'one example of shape ' + JSON.stringify(shape) + ' as JSON';
});
by('send').onclick = () => guarded(async () => {
  let example;
  if (by('drawing').hidden) example = JSON.parse(by('text').value);
  else {
    const width = model.input_shape[2], rows = [];
    for (let i = 0; i < pixels.length; i += width) rows.push(Array.from(pixels.subarray(i, i + width)));
    example = [rows];
  }
  show((await call('/v1/predict', JSON.stringify({inputs: [example]}))).answers);
  const left = (await call('/v1/budget')).remaining;
  by('left').textContent = left === null ? '' : left + ' more answers';
});
"""

_BODY = """
<h1>A model, by hand</h1>
<label>API key <input type="password" id="key" autocomplete="off"></label>
<button id="open">Open</button>
<p id="said"></p>
<div id="ask" hidden>
<div id="drawing"><canvas id="canvas"></canvas><button id="clear">Clear</button></div>
<div id="typing" hidden><label>Example <textarea id="text"></textarea></label></div>
<button id="send">Ask</button> <span id="left"></span>
</div>
<p id="answer"></p>
<div id="bars"></div>
"""


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lightning_privacy</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    f"<style>{_STYLE}</style></head><body>{_BODY}<script>{_SCRIPT}</script></body></html>"
)
"""The page."""

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""What the page may do: run its own script and ask its own host."""
