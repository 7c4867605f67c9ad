import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { valueText, windowInWords, lengthInWords, pointInWords, windowFor, needsFine, sizeInWords } = load(
  ["geometry.js", "pixels.js", "measure.js"],
  ["valueText", "windowInWords", "lengthInWords", "pointInWords", "windowFor", "needsFine", "sizeInWords"],
);

test("a value is in the file's units where they are known, else in percent", () => {
  assert.equal(valueText(0.25, [0, 4096]), "1024");
  assert.equal(valueText(0.25, [4096, 0]), "3072"); // low values are dense
  assert.equal(valueText(0.25, [-1, 1]), "-0.500");
  assert.equal(valueText(0.25, null), "25.0 %");
});

test("a window is told as centre and width, and that it is inverted", () => {
  assert.equal(windowInWords({ level: 0.5, width: 0.25, invert: false }, [0, 4096]), "C 2048 W 1024");
  assert.equal(windowInWords({ level: 0.25, width: 0.5, invert: false }, [4096, 0]), "C 3072 W 2048");
  assert.equal(windowInWords({ level: 0.5, width: 1, invert: true }, undefined), "C 50 % W 100 % inverted");
});

test("a length is in mm at the detector only where there is a spacing", () => {
  const picture = { width: 400, height: 200, native: [1600, 400], spacing: 0.5 };
  assert.equal(lengthInWords([[0, 0], [30, 40]], picture), "25 mm at the detector");
  assert.equal(lengthInWords([[0, 0], [3, 4]], picture), "2.5 mm at the detector");
  assert.equal(lengthInWords([[0, 0], [30, 0]], { ...picture, spacing: null }), "120 px");
  assert.equal(lengthInWords([[0, 0], [0, 30]], { ...picture, spacing: null }), "60 px");
});

test("a point tells column, row and value of the file's grid, and nothing beside the picture", () => {
  const picture = { width: 4, height: 2, native: [8, 4], range: [0, 65535] };
  const levels = { width: 4, height: 2, values: [0, 1, 2, 3, 4, 5, 6, 7].map((v) => 1000 * v) };
  assert.equal(pointInWords([2.6, 1.2], levels, picture), "5, 2: 6000");
  assert.equal(pointInWords([-0.1, 1], levels, picture), "");
  assert.equal(pointInWords([4, 1], levels, picture), "");
  // A finer picture is looked up in its own pixels.
  const fine = { width: 8, height: 4, values: Array.from({ length: 32 }, (_, i) => i) };
  assert.equal(pointInWords([2.6, 1.2], fine, picture), "5, 2: 21");
});

test("windows for lungs and bone are measured inside and beside the lungs", () => {
  const size = { width: 40, height: 10 };
  const values = Uint16Array.from({ length: 400 }, (_, i) => (i % 40 < 20 ? 10000 : 50000) + (i % 7) * 500);
  const map = { width: 20, height: 5, values: Array.from({ length: 100 }, (_, i) => (i % 20 < 10 ? 0 : 5)) };
  const lungs = windowFor("lungs", { ...size, values }, map, 20), bone = windowFor("bone", { ...size, values }, map, 20);
  assert.ok(Math.abs(lungs.level - 11500 / 65535) < 0.02, lungs.level);
  assert.ok(Math.abs(bone.level - 51500 / 65535) < 0.02, bone.level);
  // Without a mask the two differ all the same.
  const [whole, bright] = ["lungs", "bone"].map((part) => windowFor(part, { ...size, values }, null, 20));
  assert.ok(bright.level > whole.level);
});

test("the picture in full is asked for once it shows more than the first one", () => {
  const large = { width: 1536, native: [3000, 2500], bits: 8 }, deep = { width: 400, native: [400, 300], bits: 12 };
  const open = { width: 1 }, narrow = { width: 0.3 };
  assert.equal(needsFine(large, open, 0.5), false);
  assert.equal(needsFine(large, open, 1.2), true);
  assert.equal(needsFine(large, narrow, 0.5), false);
  assert.equal(needsFine(deep, open, 5), false);
  assert.equal(needsFine(deep, narrow, 0.5), true);
});

test("what is shown is told with its limits", () => {
  const deep = { native: [3000, 2500], bits: 12 };
  assert.equal(sizeInWords(deep, { width: 1536, height: 1280 }, false), "1536 × 1280 of 3000 × 2500 px in 8 of 12 bit");
  assert.equal(sizeInWords(deep, { width: 3000, height: 2500 }, true), "3000 × 2500 px, 12 bit");
  assert.equal(sizeInWords({ native: [400, 300], bits: 8 }, { width: 400, height: 300 }, false), "400 × 300 px, 8 bit");
  assert.equal(sizeInWords({ native: [400, 300], bits: 16 }, { width: 400, height: 300 }, false), "400 × 300 px in 8 of 16 bit");
});
