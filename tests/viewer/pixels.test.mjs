import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { placed, greyLevels, pyramidOf, keptOf, levelFor, axis, ways, rowBetween, resampled, shade, compose, isKept, windowOf } = load(
  ["geometry.js", "pixels.js"],
  ["placed", "greyLevels", "pyramidOf", "keptOf", "levelFor", "axis", "ways", "rowBetween", "resampled", "shade", "compose", "isKept", "windowOf"],
);

const FULL = { level: 0.5, width: 1, invert: false };
const COLOURS = Array.from({ length: 256 }, (_, i) => [i, 0, 255 - i]).flat();
const SCALE = { ramp: [0.2, 0.65], colours: COLOURS, confined: false };
const SIZE = { width: 4, height: 2 };
const OWN = placed(SIZE, SIZE, { zoom: 1, x: 0, y: 0 });

// A picture of 4 x 2 px at its own size: levels 0, 30, 60, ... 210.
function ingredients(changes) {
  const source = Float32Array.from({ length: 8 }, (_, i) => 257 * 30 * i);
  return { source, ...SIZE, at: OWN, picture: SIZE, window: FULL, kept: null, fill: null, heat: null, ...changes };
}

// A grid's value at the i-th place across and the j-th down, as `compose` takes it.
function sample(values, columns, ax, ay, i, j) {
  const row = new Float32Array(columns);
  rowBetween(values, columns, ay, j, row);
  return row[ax.low[i]] + ax.part[i] * (row[ax.high[i]] - row[ax.low[i]]);
}

const reds = (pixels) => [...pixels].filter((_, i) => i % 4 === 0);

test("grey levels have 16 bits, from one byte or from two", () => {
  assert.deepEqual([...greyLevels([7, 7, 7, 255, 255, 255, 255, 255], false)], [7 * 257, 65535]);
  assert.deepEqual([...greyLevels([1, 2, 0, 255, 255, 255, 0, 255], true)], [258, 65535]);
});

test("each level of a pyramid is the mean of four pixels of the one before", () => {
  const values = new Uint16Array(130 * 200).fill(100);
  values[0] = 500;
  const levels = pyramidOf(values, 130, 200);
  assert.deepEqual(levels.map(({ width, height }) => [width, height]), [[130, 200], [65, 100], [32, 50]]);
  assert.equal(levels[1].values[0], 200);
  assert.equal(levels[1].values[1], 100);
});

test("what is kept is soft at its edge, and its half lies on the edge", () => {
  const map = { width: 6, height: 3, values: Array(3).fill([0, 0, 0, 9, 9, 9]).flat() };
  const { values } = keptOf(map, 8);
  assert.deepEqual([...values.slice(0, 6)], [255, 255, 191, 64, 0, 0]);
  assert.deepEqual([...keptOf(map, 9).values], Array(18).fill(255));
});

test("the full window leaves every grey level as it is, and inverting turns the range round", () => {
  for (let v = 0; v < 256; v++) {
    assert.ok(Math.abs(shade(257 * v, FULL) - v) < 1e-9);
    assert.ok(Math.abs(shade(257 * v, { ...FULL, invert: true }) - (255 - v)) < 1e-9);
  }
});

test("a window of half the range has black below, white above and its level in the middle", () => {
  const window = { level: 0.5, width: 0.5, invert: false };
  assert.equal(shade(257 * 63, window), 0);
  assert.equal(shade(257 * 192, window), 255);
  assert.ok(Math.abs(shade(65535 / 2, window) - 127.5) < 0.01);
});

test("of a pyramid the level is drawn that is at least as fine as the pane", () => {
  const pyramid = [{ width: 400 }, { width: 200 }, { width: 100 }], picture = { width: 400 };
  const at = (scale) => levelFor({ scale }, picture, pyramid);
  assert.deepEqual(at(3), { level: 0, off: 0 });
  assert.deepEqual(at(1), { level: 0, off: 0 });
  assert.deepEqual(at(0.5), { level: 1, off: 0 });
  assert.equal(at(1 / 1.5).level, 0);
  assert.ok(Math.abs(at(1 / 1.5).off - 0.25) < 1e-9);
  assert.deepEqual(at(0.01), { level: 2, off: 0.5 });
  // A finer picture than the one sent first is measured in its pixels.
  assert.deepEqual(levelFor({ scale: 1 }, { width: 200 }, pyramid), { level: 1, off: 0 });
});

test("at its own size a picture is not resampled, in no pose", () => {
  const values = Uint16Array.from({ length: 8 }, (_, i) => 1000 * i);
  const pyramid = [{ ...SIZE, values }];
  assert.deepEqual([...resampled(pyramid, 4, 2, OWN, SIZE)], [...values]);
  const side = { width: 2, height: 4 };
  const turned = placed(SIZE, side, { zoom: 1, x: 0, y: 0, turns: 1 });
  assert.deepEqual([...resampled(pyramid, 2, 4, turned, SIZE)], [4, 0, 5, 1, 6, 2, 7, 3].map((v) => 1000 * v));
  const mirrored = placed(SIZE, SIZE, { zoom: 1, x: 0, y: 0, mirrored: true });
  assert.deepEqual([...resampled(pyramid, 4, 2, mirrored, SIZE)], [3, 2, 1, 0, 7, 6, 5, 4].map((v) => 1000 * v));
});

test("without mask and heat the pixels are the picture's", () => {
  assert.deepEqual(reds(compose(ingredients({}))), [0, 30, 60, 90, 120, 150, 180, 210]);
});

test("beside the picture a pane is black and opaque", () => {
  const source = new Float32Array(8).fill(257 * 9);
  const at = placed(SIZE, { width: 4, height: 2 }, { zoom: 0.5, x: 0, y: 0 });
  const pixels = compose(ingredients({ at, source }));
  assert.deepEqual(reds(pixels), [0, 9, 9, 0, 0, 9, 9, 0]);
  assert.ok(pixels.every((v, i) => i % 4 !== 3 || v === 255));
});

test("what a masking removes has its fill, and only that", () => {
  const kept = { width: 4, height: 2, values: [255, 255, 255, 0, 255, 255, 255, 0] };
  assert.deepEqual(reds(compose(ingredients({ kept, fill: 0 }))), [0, 30, 60, 0, 120, 150, 180, 0]);
  assert.deepEqual(reds(compose(ingredients({ kept, fill: 0.4 }))), [0, 30, 60, 102, 120, 150, 180, 102]);
});

test("the peak has the last colour at the opacity, and no heat leaves the grey", () => {
  const heat = { rows: 1, columns: 4, cells: [0, 0, 0, 8], content: [0, 0, 1, 1], peak: 8, opacity: 1, ...SCALE };
  const hot = compose(ingredients({ heat }));
  assert.deepEqual([...hot.slice(12, 16)], [255, 0, 0, 255]);
  assert.deepEqual([...hot.slice(0, 8)], [0, 0, 0, 255, 30, 30, 30, 255]);
  const half = compose(ingredients({ heat: { ...heat, opacity: 0.5 } }));
  assert.deepEqual([...half.slice(12, 16)], [Math.round((90 + 255) / 2), 45, 45, 255]);
});

test("heat that is confined to what was kept is drawn there alone, whether the rest is filled or not", () => {
  const kept = { width: 4, height: 2, values: [255, 255, 255, 0, 255, 255, 255, 0] };
  const heat = { rows: 1, columns: 1, cells: [8], content: [0, 0, 1, 1], peak: 8, opacity: 1, ...SCALE };
  const hot = 255;
  assert.deepEqual(reds(compose(ingredients({ kept, heat }))), Array(8).fill(hot));
  const confined = { ...heat, confined: true };
  assert.deepEqual(reds(compose(ingredients({ kept, heat: confined }))), [hot, hot, hot, 90, hot, hot, hot, 210]);
  assert.deepEqual(reds(compose(ingredients({ kept, fill: 0.4, heat: confined }))), [hot, hot, hot, 102, hot, hot, hot, 102]);
  assert.deepEqual([0.1, 0.6, 0.8, 0.9].map((x) => isKept(kept, [x, 0.5])), [true, true, false, false]);
});

test("heat is clear below its ramp and full above it", () => {
  const drawn = (cell, opacity) => reds(compose(ingredients({ heat: { rows: 1, columns: 1, cells: [cell], content: [0, 0, 1, 1], peak: 1, opacity, ...SCALE } })))[1];
  assert.deepEqual([drawn(0.19, 1), drawn(0.65, 1), drawn(0.65, 0.5)], [30, Math.round(255 * 0.65), Math.round((30 + 255 * 0.65) / 2)]);
  assert.ok(Math.abs(drawn(0.425, 1) - (30 + 255 * 0.425) / 2) <= 1);
});

test("heat beyond the peak is drawn as the peak", () => {
  const heat = { rows: 1, columns: 1, cells: [80], content: [0, 0, 1, 1], peak: 8, opacity: 1, ...SCALE };
  assert.deepEqual([...compose(ingredients({ heat })).slice(0, 3)], [255, 0, 0]);
});

test("cells under a letterbox's bars are not drawn over the picture", () => {
  // A picture twice as wide as high lies on the middle two of four rows of cells.
  const cells = [9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9];
  const ay = axis([2, 1, 0], 2, 4, 0.25, 0.5), ax = axis([4, 1, 0], 4, 4);
  assert.deepEqual([sample(cells, 4, ax, ay, 0, 0), sample(cells, 4, ax, ay, 3, 1)], [1, 1]);
});

test("between two cells lies their mean", () => {
  const ax = axis([4, 1, 0], 4, 2), ay = axis([1, 1, 0], 1, 1);
  assert.deepEqual([0, 1, 2, 3].map((i) => sample([0, 8], 2, ax, ay, i, 0)), [0, 2, 6, 8]);
  const back = axis([4, -1, 4], 4, 2);
  assert.deepEqual([0, 1, 2, 3].map((i) => sample([0, 8], 2, back, ay, i, 0)), [8, 6, 2, 0]);
});

test("on its side the picture's columns run down the pane", () => {
  const at = placed(SIZE, { width: 2, height: 4 }, { zoom: 1, x: 0, y: 0, turns: 3 });
  assert.deepEqual(ways(OWN, 4, 2), { isTurned: false, x: [4, 1, 0], y: [2, 1, 0] });
  assert.deepEqual(ways(at, 2, 4), { isTurned: true, x: [4, -1, 4], y: [2, 1, 0] });
});

test("a window for a part leaves out its darkest and brightest hundredth", () => {
  const values = Uint16Array.from({ length: 1000 }, (_, i) => (i < 5 ? 0 : i > 995 ? 65535 : 20000 + 20 * i));
  const { level, width } = windowOf(values, () => true);
  assert.ok(Math.abs(level - 30000 / 65535) < 0.01 && Math.abs(width - 20000 / 65535) < 0.02);
  assert.deepEqual(windowOf(values, () => false), { level: 0.5, width: 1 });
  assert.equal(windowOf(new Uint16Array(9).fill(500), () => true).width, 0.05);
});
