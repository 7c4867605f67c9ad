import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { greyTable, axis, sample, compose } = load(
  ["pixels.js"],
  ["greyTable", "axis", "sample", "compose"],
);

const FULL = { level: 0.5, width: 1, invert: false };
const COLOURS = Array.from({ length: 256 }, (_, i) => [i, 0, 255 - i]).flat();

// A picture of 4 x 2 px at its own size: levels 0, 30, 60, ... 210.
function ingredients(changes) {
  const source = new Uint8ClampedArray(32).fill(255);
  for (let i = 0; i < 8; i++) source.fill(30 * i, 4 * i, 4 * i + 3);
  return {
    source, width: 4, height: 2, at: { scale: 1, ox: 0, oy: 0 }, picture: { width: 4, height: 2 },
    table: greyTable(FULL), mask: null, heat: null, ...changes,
  };
}

const reds = (pixels) => [...pixels].filter((_, i) => i % 4 === 0);

test("the full window leaves every grey level as it is", () => {
  assert.deepEqual([...greyTable(FULL)], [...Array(256).keys()]);
});

test("inverting turns the range round", () => {
  assert.deepEqual([...greyTable({ ...FULL, invert: true })], [...Array(256).keys()].reverse());
});

test("a window of half the range has black below, white above and its level in the middle", () => {
  const table = greyTable({ level: 0.5, width: 0.5, invert: false });
  assert.equal(table[63], 0);
  assert.equal(table[192], 255);
  assert.ok(Math.abs(table[127] - 127) <= 1 && Math.abs(table[128] - 128) <= 1);
});

test("without mask and heat the pixels are the picture's", () => {
  assert.deepEqual(reds(compose(ingredients({}))), [0, 30, 60, 90, 120, 150, 180, 210]);
});

test("beside the picture a pane is black and opaque", () => {
  const pixels = compose(ingredients({ at: { scale: 0.5, ox: 1, oy: 0.5 }, table: new Uint8ClampedArray(256).fill(9) }));
  assert.deepEqual(reds(pixels), [0, 9, 9, 0, 0, 9, 9, 0]);
  assert.ok(pixels.every((v, i) => i % 4 !== 3 || v === 255));
});

test("what a masking removes is black, and only that", () => {
  const mask = { width: 4, height: 2, values: [0, 0, 3, 9, 0, 0, 3, 9], limit: 3.5 };
  assert.deepEqual(reds(compose(ingredients({ mask }))), [0, 30, 60, 0, 120, 150, 180, 0]);
});

test("the peak has the last colour at the opacity, and no heat leaves the grey", () => {
  const heat = { rows: 1, columns: 4, cells: [0, 0, 0, 8], content: [0, 0, 1, 1], peak: 8, opacity: 1, colours: COLOURS };
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
