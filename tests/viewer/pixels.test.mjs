import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { greyLevels, pyramidOf, levelFor, resampled, shade, axis, sample, compose, windowOf } = load(
  ["pixels.js"],
  ["greyLevels", "pyramidOf", "levelFor", "resampled", "shade", "axis", "sample", "compose", "windowOf"],
);

const FULL = { level: 0.5, width: 1, invert: false };
const COLOURS = Array.from({ length: 256 }, (_, i) => [i, 0, 255 - i]).flat();

// A picture of 4 x 2 px at its own size: levels 0, 30, 60, ... 210 of 255.
function ingredients(changes) {
  return {
    source: Float32Array.from({ length: 8 }, (_, i) => 257 * 30 * i), width: 4, height: 2,
    at: { scale: 1, ox: 0, oy: 0 }, picture: { width: 4, height: 2 },
    window: FULL, mask: null, heat: null, ...changes,
  };
}

const reds = (pixels) => [...pixels].filter((_, i) => i % 4 === 0);

test("8 bits fill the range of 16, and two channels are one level", () => {
  assert.deepEqual([...greyLevels([255, 255, 255, 255, 1, 1, 1, 255], false)], [65535, 257]);
  assert.deepEqual([...greyLevels([255, 254, 0, 255, 1, 2, 0, 255], true)], [65534, 258]);
});

test("the full window leaves every grey level as it is, inverting turns the range round", () => {
  for (let v = 0; v < 256; v++) {
    assert.ok(Math.abs(shade(257 * v, FULL) - v) < 1e-6);
    assert.ok(Math.abs(shade(257 * v, { ...FULL, invert: true }) - (255 - v)) < 1e-6);
  }
});

test("a window of half the range has black below, white above and its level in the middle", () => {
  const half = { level: 0.5, width: 0.5, invert: false };
  assert.equal(shade(0.25 * 65535, half), 0);
  assert.equal(shade(0.75 * 65535, half), 255);
  assert.ok(Math.abs(shade(0.5 * 65535, half) - 127.5) < 0.01);
});

test("each level of a pyramid is the mean of four pixels, and no side is lost", () => {
  const levels = pyramidOf(Uint16Array.from({ length: 130 * 200 }, (_, i) => (i % 130) + 10), 130, 200);
  assert.deepEqual(levels.map(({ width, height }) => [width, height]), [[130, 200], [65, 100], [32, 50]]);
  assert.deepEqual([...levels[1].values.slice(0, 3)], [11, 13, 15]);
});

test("a scale is drawn from the two levels about it", () => {
  assert.deepEqual(levelFor(2, 4), { low: 0, part: 0 });
  assert.deepEqual(levelFor(1, 4), { low: 0, part: 0 });
  assert.deepEqual(levelFor(0.5, 4), { low: 1, part: 0 });
  assert.deepEqual(levelFor(0.001, 4), { low: 3, part: 0 });
});

test("at its own size a picture is drawn as it is", () => {
  const values = Uint16Array.from({ length: 8 }, (_, i) => 1000 * i), at = { scale: 1, ox: 0, oy: 0 };
  const picture = { width: 4, height: 2 };
  assert.deepEqual([...resampled(pyramidOf(values, 4, 2), 4, 2, at, picture)], [...values]);
});

test("without mask and heat the pixels are the picture's", () => {
  assert.deepEqual(reds(compose(ingredients({}))), [0, 30, 60, 90, 120, 150, 180, 210]);
});

test("beside the picture a pane is black and opaque", () => {
  const source = new Float32Array(8).fill(257 * 9);
  const pixels = compose(ingredients({ at: { scale: 0.5, ox: 1, oy: 0.5 }, source }));
  assert.deepEqual(reds(pixels), [0, 9, 9, 0, 0, 9, 9, 0]);
  assert.ok(pixels.every((v, i) => i % 4 !== 3 || v === 255));
});

test("what a masking removes has the fill that the network was given, and only that", () => {
  const mask = { width: 4, height: 2, values: [0, 0, 3, 9, 0, 0, 3, 9], limit: 3.5, fill: 0 };
  assert.deepEqual(reds(compose(ingredients({ mask }))), [0, 30, 60, 0, 120, 150, 180, 0]);
  assert.deepEqual(reds(compose(ingredients({ mask: { ...mask, fill: 0.4 } }))), [0, 30, 60, 102, 120, 150, 180, 102]);
});

test("the peak has the last colour at the opacity, and little heat leaves the grey", () => {
  const heat = { rows: 1, columns: 4, cells: [0, 1, 0, 8], content: [0, 0, 1, 1], peak: 8, opacity: 1, colours: COLOURS };
  const hot = compose(ingredients({ heat }));
  assert.deepEqual([...hot.slice(12, 16)], [255, 0, 0, 255]);
  assert.deepEqual([...hot.slice(0, 8)], [0, 0, 0, 255, 30, 30, 30, 255]);
  const half = compose(ingredients({ heat: { ...heat, opacity: 0.5 } }));
  assert.deepEqual([...half.slice(12, 16)], [Math.round((90 + 255) / 2), 45, 45, 255]);
});

test("heat beyond the peak is drawn as the peak", () => {
  const heat = { rows: 1, columns: 1, cells: [80], content: [0, 0, 1, 1], peak: 8, opacity: 1, colours: COLOURS };
  assert.deepEqual([...compose(ingredients({ heat })).slice(0, 3)], [255, 0, 0]);
});

test("cells under a letterbox's bars are not drawn over the picture", () => {
  // A picture twice as wide as high lies on the middle two of four rows of cells.
  const cells = [9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9];
  const ay = axis(2, 1, 0, 2, 4, 0.25, 0.5), ax = axis(4, 1, 0, 4, 4);
  assert.deepEqual([sample(cells, 4, ax, ay, 0, 0), sample(cells, 4, ax, ay, 3, 1)], [1, 1]);
});

test("between two cells lies their mean", () => {
  const ax = axis(4, 1, 0, 4, 2), ay = axis(1, 1, 0, 1, 1);
  assert.deepEqual([0, 1, 2, 3].map((x) => sample([0, 8], 2, ax, ay, x, 0)), [0, 2, 6, 8]);
});

test("a window fits the part of the picture that counts", () => {
  const values = Uint16Array.from({ length: 2000 }, (_, i) => (i < 1000 ? 16384 : 49152));
  const dark = windowOf(values, (i) => i < 1000);
  assert.ok(Math.abs(dark.level - 0.25) < 0.01 && dark.width === 0.05);
  assert.ok(Math.abs(windowOf(values, () => true).width - 0.5) < 0.01);
  assert.deepEqual(windowOf(values, () => false), { level: 0.5, width: 1 });
});
