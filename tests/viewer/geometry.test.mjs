import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { placed, reachable, boxBetween, toNative, heightOf, middleOf, distanceBetween } = load(
  ["geometry.js"],
  ["placed", "reachable", "boxBetween", "toNative", "heightOf", "middleOf", "distanceBetween"],
);

const PICTURE = { width: 400, height: 200, native: [1600, 400] };

test("a picture is fitted whole and in the middle of its pane", () => {
  const wide = placed(PICTURE, { width: 800, height: 800 }, { zoom: 1, x: 0, y: 0 });
  assert.deepEqual(wide, { scale: 2, ox: 0, oy: 200 });
  const high = placed(PICTURE, { width: 800, height: 200 }, { zoom: 1, x: 0, y: 0 });
  assert.deepEqual(high, { scale: 1, ox: 200, oy: 0 });
});

test("the point that a zoomed view is about lies in the middle of the pane", () => {
  const pane = { width: 640, height: 480 };
  const at = placed(PICTURE, pane, { zoom: 3, x: 50, y: -20 });
  assert.ok(Math.abs((PICTURE.width / 2 + 50) * at.scale + at.ox - pane.width / 2) < 1e-9);
  assert.ok(Math.abs((PICTURE.height / 2 - 20) * at.scale + at.oy - pane.height / 2) < 1e-9);
});

test("a view cannot leave the picture", () => {
  assert.deepEqual(reachable(PICTURE, 1, 300, -300), { x: 0, y: -0 });
  assert.deepEqual(reachable(PICTURE, 2, 300, -300), { x: 100, y: -50 });
  assert.deepEqual(reachable(PICTURE, 2, 10, 20), { x: 10, y: 20 });
});

test("a box has its corners in order and lies in the picture", () => {
  assert.deepEqual(boxBetween(PICTURE, [90, 150], [-5, 260]), [0, 150, 90, 200]);
  assert.deepEqual(boxBetween(PICTURE, [10, 20], [30, 40]), [10, 20, 30, 40]);
});

test("the image as read may have another size along each axis", () => {
  assert.deepEqual(toNative(PICTURE, [100, 50]), [400, 100]);
});

test("the height of polygons counts both ends", () => {
  assert.equal(heightOf([[0, 10, 5, 12], [7, 3, 9, 30]]), 28);
});

test("a pinch has a middle and a reach that is never nothing", () => {
  const a = { clientX: 10, clientY: 20 }, b = { clientX: 40, clientY: 60 };
  assert.deepEqual(middleOf(a, b), { clientX: 25, clientY: 40 });
  assert.equal(distanceBetween(a, b), 50);
  assert.equal(distanceBetween(a, a), 1);
});
