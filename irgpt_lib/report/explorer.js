// The difficulty explorer. uPlot gives axes, scales and brushes; the marks of up to some 200,000 samples are counted into
// typed arrays and painted as pixels, for neither SVG nor a marker a sample follows a moving brush.
"use strict";

const BINS = 56;
const CARDS = 12;
const HEIGHTS = { scatter: 560, lesson1: 150, lesson2: 150, tier: 150 };
const PICK_PX = 12;
const DRAG_PX = 4;
const PALE = [222, 222, 222];
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5]; // ticks of counts

const byId = (id) => document.getElementById(id);
const hex = (rgb) => "#" + rgb.map((v) => v.toString(16).padStart(2, "0")).join("");
const rgbOf = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));

// ---- data: rows come sorted by Lesson 2's rank, then by id

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

async function load() {
  const page = JSON.parse(byId("data").textContent);
  const kinds = { f4: Float32Array, u2: Uint16Array, i4: Int32Array };
  for (const [name, { type, packed }] of Object.entries(page.columns)) page[name] = new kinds[type](await unpacked(packed));
  page.ids = JSON.parse(new TextDecoder().decode(await unpacked(page.ids)));
  return page;
}

// ---- ranking: as `ranking.combine(method="lambda")`, in whole numbers, so that equal ranks stay equal

function argsort(keys) {
  // Radix sort, stable: rows that tie stay in the order of Lesson 2's rank, then of the id.
  const n = keys.length;
  let from = new Uint32Array(n), to = new Uint32Array(n);
  for (let i = 0; i < n; i++) from[i] = i;
  for (let shift = 0; shift < 33; shift += 11) {
    const start = new Uint32Array(2049);
    for (let i = 0; i < n; i++) start[((keys[i] >>> shift) & 2047) + 1]++;
    for (let i = 0; i < 2048; i++) start[i + 1] += start[i];
    for (let k = 0; k < n; k++) to[start[(keys[from[k]] >>> shift) & 2047]++] = from[k];
    [from, to] = [to, from];
  }
  return from;
}

function rankedBy(step) {
  // `step` of `page.steps` is λ; twice a shared rank is a whole number
  const keys = new Uint32Array(page.n);
  for (let i = 0; i < page.n; i++) keys[i] = step * page.twice_rank1[i] + (page.steps - step) * page.twice_rank2[i];
  const order = argsort(keys);
  const rank = new Uint32Array(page.n);
  for (let k = 0; k < page.n; k++) rank[order[k]] = k;
  return { order, rank };
}

function tiersOf(rank, m) {
  const tier = new Uint16Array(page.n);
  for (let i = 0; i < page.n; i++) tier[i] = Math.floor((rank[i] * m) / page.n);
  return tier;
}

// ---- colours: a code a sample, and a colour a code

function colouring(name) {
  if (name === "tier") return { code: state.tier, colours: ramp(state.m), ends: ["0, trained first", `${state.m - 1}`] };
  if (name === "weight") return { code: state.weightCode, colours: ramp(64), ends: page.weight_range.map((w) => w.toFixed(2)) };
  const { labels, colours } = page.classes[name];
  return { code: page[name], colours: colours.map(rgbOf), labels };
}

function ramp(count) {
  const last = page.ramp.length - 1;
  return Array.from({ length: count }, (_, i) => rgbOf(page.ramp[Math.round((i / Math.max(count - 1, 1)) * last)]));
}

function scaled(values, [low, high], count) {
  const factor = count / (high - low);
  const bins = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bins[i] = Math.min(count - 1, Math.max(0, Math.floor((values[i] - low) * factor)));
  return bins;
}

// ---- one pass over the samples: who is inside every brush, and the counts of the three histograms

function inside() {
  const { on } = state;
  const { lesson1, lesson2, tier, scatter } = state.brushes;
  const [a1, b1] = lesson1 ?? [-Infinity, Infinity], [a2, b2] = lesson2 ?? [-Infinity, Infinity];
  const [at, bt] = tier ?? [-Infinity, Infinity];
  const [x0, x1, y0, y1] = scatter ?? [-Infinity, Infinity, -Infinity, Infinity];
  const [d, l, t] = [page.distance, page.clip_loss, state.tier];
  let count = 0;
  for (let i = 0; i < page.n; i++) {
    const x = d[i], y = l[i], k = t[i];
    const hit = x >= a1 && x <= b1 && y >= a2 && y <= b2 && k >= at && k <= bt && x >= x0 && x <= x1 && y >= y0 && y <= y1;
    on[i] = hit ? 1 : 0;
    if (hit) count++;
  }
  return count;
}

function counted(bin, bins, code, codes) {
  const counts = new Uint32Array(bins * codes);
  for (let i = 0; i < page.n; i++) if (state.on[i]) counts[bin[i] * codes + code[i]]++;
  return counts;
}

function totals(bin, bins) {
  const counts = new Uint32Array(bins);
  for (let i = 0; i < page.n; i++) counts[bin[i]]++;
  return counts;
}

// ---- painting

function drawBars(u) {
  const { from, to, counts, totals } = state.bars[u.chart];
  const { colours } = state.colour;
  const base = u.valToPos(0, "y", true), perSample = (base - u.valToPos(1, "y", true));
  for (let b = 0; b < totals.length; b++) {
    const x = u.valToPos(from(b), "x", true), width = Math.max(1, u.valToPos(to(b), "x", true) - x - 1);
    u.ctx.fillStyle = hex(PALE);
    u.ctx.fillRect(x, base - totals[b] * perSample, width, totals[b] * perSample);
    let below = 0;
    for (let c = 0; c < colours.length; c++) {
      const here = counts[b * colours.length + c];
      if (!here) continue;
      // whole pixels, or pale lines would show between the colours
      const [y, next] = [below, below + here].map((n) => Math.round(base - n * perSample));
      u.ctx.fillStyle = state.css[c];
      u.ctx.fillRect(x, next, width, y - next);
      below += here;
    }
  }
}

function placed(u) {
  // the pixel of every sample; changes only with the size of the chart
  const [left, top, width, height] = ["left", "top", "width", "height"].map((side) => Math.round(u.bbox[side]));
  if (state.raster?.width === width && state.raster?.height === height) return state.raster;
  const side = page.n > 50000 ? 1 : page.n > 8000 ? 2 : page.n > 1000 ? 4 : 6;
  const dot = Math.round(side * Math.min(2, devicePixelRatio));
  const pixel = new Uint32Array(page.n);
  for (let i = 0; i < page.n; i++) {
    const x = Math.round(u.valToPos(page.distance[i], "x", true) - left - dot / 2);
    const y = Math.round(u.valToPos(page.clip_loss[i], "y", true) - top - dot / 2);
    pixel[i] = Math.min(height - dot, Math.max(0, y)) * width + Math.min(width - dot, Math.max(0, x));
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  state.raster = {
    width, height, dot, pixel, canvas, context, image,
    red: new Uint32Array(width * height), green: new Uint32Array(width * height), blue: new Uint32Array(width * height),
    hits: new Uint32Array(width * height), others: new Uint8Array(width * height),
  };
  return state.raster;
}

function drawPoints(u) {
  const r = placed(u);
  for (const layer of [r.red, r.green, r.blue, r.hits, r.others]) layer.fill(0);
  const { on } = state, { code, colours } = state.colour;
  const [red, green, blue] = [0, 1, 2].map((k) => Uint8Array.from(colours, (c) => c[k]));
  for (let i = 0; i < page.n; i++) {
    const c = code[i];
    for (let row = 0, p = r.pixel[i]; row < r.dot; row++, p += r.width) {
      for (let q = p; q < p + r.dot; q++) {
        if (!on[i]) { r.others[q] = 1; continue; }
        r.red[q] += red[c]; r.green[q] += green[c]; r.blue[q] += blue[c]; r.hits[q]++;
      }
    }
  }
  shade(r);
  r.context.putImageData(r.image, 0, 0);
  u.ctx.drawImage(r.canvas, u.bbox.left, u.bbox.top);
  if (state.picked !== null) ring(u, state.picked);
}

function shade(r) {
  // The mean colour of the samples on a pixel, more opaque the more they are; brushed-out ones lie pale below.
  const { data } = r.image;
  for (let p = 0, q = 0; p < r.hits.length; p++, q += 4) {
    const n = r.hits[p];
    data[q + 3] = n ? OPACITY[Math.min(n, 15)] : r.others[p] * 255;
    data[q] = n ? r.red[p] / n : PALE[0];
    data[q + 1] = n ? r.green[p] / n : PALE[1];
    data[q + 2] = n ? r.blue[p] / n : PALE[2];
  }
}
const OPACITY = Uint8Array.from({ length: 16 }, (_, n) => 255 * (1 - 0.45 ** n));

function ring(u, i) {
  const { ctx } = u;
  ctx.save();
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.strokeStyle = "#000";
  ctx.beginPath();
  ctx.arc(u.valToPos(page.distance[i], "x", true), u.valToPos(page.clip_loss[i], "y", true), 7 * devicePixelRatio, 0, 7);
  ctx.stroke();
  ctx.restore();
}

// ---- charts and their brushes

function chart(name, x, y, labels, draw, both) {
  const box = byId(name);
  const u = new uPlot({
    width: box.clientWidth, height: HEIGHTS[name], legend: { show: false },
    scales: { x: { time: false, range: x }, y: { range: y } },
    series: [{}, { paths: () => null, points: { show: false } }],
    axes: [
      { label: labels[0], labelSize: 18, size: 30, ...(name === "tier" && { incrs: WHOLE }) },
      { label: labels[1], labelSize: 18, size: 58, ...(!both && { incrs: WHOLE }) },
    ],
    cursor: {
      points: { show: false }, y: both,
      drag: { x: true, y: both, setScale: false, dist: DRAG_PX },
      bind: { dblclick: () => () => unbrush(name) },
    },
    hooks: {
      draw: [draw],
      setCursor: [(u) => { if (u.cursor.drag._x || u.cursor.drag._y) brush(u); }],
      setSelect: [brush],
    },
  }, [x, y], box);
  u.chart = name;
  sizes.observe(box);
  return u;
}

// a page inside a notebook may be laid out only later, or made wider
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const u = charts[target.id];
    if (target.clientWidth && target.clientWidth !== u.width) u.setSize({ width: target.clientWidth, height: u.height });
  }
});

function brush(u) {
  const { left, top, width, height } = u.select;
  if (!width) return; // uPlot also reports the empty selection that a chart begins with
  const across = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
  state.brushes[u.chart] = u.chart === "scatter" ? [...across, u.posToVal(top + height, "y"), u.posToVal(top, "y")] : across;
  if (u.chart === "tier") state.brushes.tier = [Math.ceil(across[0] - 0.5), Math.floor(across[1] + 0.5)];
  refresh();
}

function unbrush(...names) {
  for (const name of names) {
    delete state.brushes[name];
    charts[name].setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }
  refresh();
}

// A brush may move many times within one frame of the screen; it is drawn once.
function refresh() {
  state.waiting ??= requestAnimationFrame(() => { state.waiting = null; render(); });
}

function render() {
  state.colour = colouring(byId("colour").value);
  state.css = state.colour.colours.map(hex);
  state.selected = inside();
  for (const bars of Object.values(state.bars)) {
    bars.counts = counted(bars.bin, bars.totals.length, state.colour.code, state.colour.colours.length);
  }
  for (const u of Object.values(charts)) u.redraw(false, false);
  byId("count").textContent = `${state.selected.toLocaleString("en")} of ${page.n.toLocaleString("en")} samples`;
  drawLegend();
  if (state.shown) showList();
}

function drawLegend() {
  const { code, colours, labels, ends } = state.colour;
  const legend = byId("legend");
  legend.replaceChildren();
  if (!labels) {
    const band = Object.assign(document.createElement("span"), { className: "ramp" });
    band.style.background = `linear-gradient(to right, ${state.css.join()})`;
    legend.append(Object.assign(document.createElement("span"), { textContent: ends[0] }), band, ends[1]);
    return;
  }
  const counts = new Uint32Array(colours.length);
  for (let i = 0; i < page.n; i++) if (state.on[i]) counts[code[i]]++;
  labels.forEach((label, c) => {
    const entry = document.createElement("span"), mark = document.createElement("i");
    mark.style.background = state.css[c];
    entry.append(mark, `${label} ${counts[c].toLocaleString("en")}`);
    legend.append(entry);
  });
}

// ---- ranking and tiers by the sliders

function rerank() {
  Object.assign(state, rankedBy(Number(byId("weight").value)));
  byId("weight-value").textContent = (byId("weight").value / page.steps).toFixed(2);
  retier();
}

function retier() {
  const m = Number(byId("tiers").value);
  const moved = m !== state.m;
  state.m = m;
  state.tier = tiersOf(state.rank, m);
  byId("tiers-value").textContent = m;
  state.bars.tier = { bin: state.tier, totals: totals(state.tier, m), from: (b) => b - 0.5, to: (b) => b + 0.5 };
  if (moved) {
    charts.tier?.destroy();
    delete state.brushes.tier;
    charts.tier = chart("tier", [-0.5, m - 0.5], [0, Math.max(...state.bars.tier.totals)], ["tier", "samples"], drawWhenReady, false);
  }
  refresh();
}

// uPlot draws once by itself, before the first counts are there
function drawWhenReady(u) {
  if (state.colour && state.bars[u.chart].counts) drawBars(u);
}

// ---- samples

function extremes(which) {
  const found = [];
  const list = which === "disagreeing" ? state.disagreeing : state.order;
  const from = which === "hardest" ? list.length - 1 : 0, step = which === "hardest" ? -1 : 1;
  for (let k = from; k >= 0 && k < list.length && found.length < CARDS; k += step) if (state.on[list[k]]) found.push(list[k]);
  return found;
}

function showList() {
  const found = extremes(state.shown);
  byId("heading").textContent = `${found.length} ${state.shown === "disagreeing" ? "most disagreeing" : state.shown} of the selection`;
  showCards(found);
}

function choose(which) {
  state.shown = which;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === which));
  }
  if (which) state.picked = null;
  refresh();
}

function nearest(u, left, top, wanted) {
  let best = null, least = Infinity;
  const [kx, ky] = [u.over.clientWidth / (u.scales.x.max - u.scales.x.min), u.over.clientHeight / (u.scales.y.max - u.scales.y.min)];
  const x = u.posToVal(left, "x"), y = u.posToVal(top, "y");
  for (let i = 0; i < page.n; i++) {
    if (!wanted(i)) continue;
    const far = ((page.distance[i] - x) * kx) ** 2 + ((page.clip_loss[i] - y) * ky) ** 2;
    if (far < least) { least = far; best = i; }
  }
  return { best, px: Math.sqrt(least) };
}

function pick(i) {
  choose(null);
  state.picked = i;
  byId("heading").textContent = "Picked sample";
  showCards([i]);
  if (page.card[i] < 0) offerPictured(i);
}

function offerPictured(i) {
  const u = charts.scatter;
  const at = [u.valToPos(page.distance[i], "x"), u.valToPos(page.clip_loss[i], "y")];
  const { best } = nearest(u, ...at, (j) => page.card[j] >= 0 && state.on[j]);
  if (best === null) return;
  const button = Object.assign(document.createElement("button"), { type: "button", id: "pictured", textContent: "nearest sample with its images" });
  button.onclick = () => pick(best);
  byId("cards").firstChild.append(button);
}

function showCards(rows) {
  byId("cards").replaceChildren(...rows.map(card));
}

function card(i) {
  const box = Object.assign(document.createElement("article"), { className: "card" });
  box.dataset.id = page.ids[i];
  const held = page.card[i] < 0 ? null : page.cards[page.card[i]];
  const title = Object.assign(document.createElement("b"), { textContent: page.ids[i] });
  const pair = Object.assign(document.createElement("div"), { className: "pair" });
  pair.append(picture(held, "infrared"), picture(held, "visible"));
  const caption = Object.assign(document.createElement("div"), { className: "caption" });
  caption.textContent = held ? held.caption || "no caption" : "";
  box.append(title, pair, caption, scoresOf(i));
  return box;
}

function picture(held, which) {
  if (held?.[which]) return Object.assign(document.createElement("img"), { src: held[which], alt: which, title: which });
  const text = held ? "no pair" : "image not in this page";
  return Object.assign(document.createElement("div"), { className: "none", textContent: text });
}

function scoresOf(i) {
  const table = document.createElement("table");
  const label = (name) => page.classes[name].labels[page[name][i]];
  const rows = {
    "origin": ["band", "source", "kind"].map(label).join(", "),
    "tier": `${state.tier[i]} of 0–${state.m - 1}`,
    "rank": `${state.rank[i]} of 0–${page.n - 1}`,
    "Lesson 1, distance": `${page.distance[i].toFixed(4)} (rank ${page.twice_rank1[i] / 2})`,
    "Lesson 2, CLIP loss": `${page.clip_loss[i].toFixed(4)} (rank ${page.twice_rank2[i] / 2})`,
    "α": page.alpha[i].toFixed(4),
    "weight": page.weight[i].toFixed(3),
  };
  for (const [name, value] of Object.entries(rows)) {
    const row = table.insertRow();
    row.insertCell().textContent = name;
    row.insertCell().textContent = value;
  }
  return table;
}

// ---- start

const charts = {};
const state = { brushes: {}, bars: {}, shown: null, picked: null, raster: null, waiting: null };
let page;

function histogram(name, values, range, label) {
  const bin = scaled(values, range, BINS), width = (range[1] - range[0]) / BINS;
  const from = (b) => range[0] + b * width;
  state.bars[name] = { bin, totals: totals(bin, BINS), from, to: (b) => from(b + 1) };
  charts[name] = chart(name, range, [0, Math.max(...state.bars[name].totals)], [label, "samples"], drawWhenReady, false);
}

function controls() {
  for (const name of ["band", "source", "kind", "tier", "weight"]) byId("colour").add(new Option(name));
  Object.assign(byId("tiers"), { min: 1, max: page.most_tiers, value: page.tiers });
  Object.assign(byId("weight"), { min: 0, max: page.steps, step: 1, value: page.step });
  byId("colour").onchange = refresh;
  byId("tiers").oninput = retier;
  byId("weight").oninput = rerank;
  byId("clear").onclick = () => unbrush(...Object.keys(charts));
  for (const button of document.querySelectorAll("[data-show]")) button.onclick = () => choose(button.dataset.show);
}

function listenForPicks(u) {
  let down = null;
  u.over.addEventListener("mousedown", (event) => { down = event; });
  u.over.addEventListener("click", (event) => {
    if (!down || Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) >= DRAG_PX) return;
    const { best, px } = nearest(u, event.offsetX, event.offsetY, (i) => state.on[i]);
    if (best !== null && px <= PICK_PX) pick(best);
  });
}

async function start() {
  page = await load();
  state.on = new Uint8Array(page.n).fill(1);
  state.weightCode = scaled(page.weight, page.weight_range, 64);
  const apart = Uint32Array.from(page.twice_rank1, (r, i) => 2 * page.n - Math.abs(r - page.twice_rank2[i]));
  state.disagreeing = argsort(apart);
  controls();
  const [x, y] = [page.distance_range, page.clip_loss_range];
  histogram("lesson1", page.distance, x, "distance");
  histogram("lesson2", page.clip_loss, y, "CLIP loss");
  const names = ["Lesson 1: sample distance", "Lesson 2: CLIP loss"];
  charts.scatter = chart("scatter", x, y, names, (u) => { if (state.colour) drawPoints(u); }, true);
  listenForPicks(charts.scatter);
  rerank();
  choose("hardest");
  document.body.dataset.ready = "true";
}

const started = start();
