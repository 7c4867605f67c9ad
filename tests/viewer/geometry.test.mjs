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

const poses = [0, 1, 2, 3].flatMap((turns) => [false, true].map((mirrored) => ({ turns, mirrored })));
const { posedSize, posedPoint, unposedPoint, posedGrid, posedPolygons, posedHeat, sideEdges, roundLength, contourOf, isWithin } = load(
  ["geometry.js"],
  ["posedSize", "posedPoint", "unposedPoint", "posedGrid", "posedPolygons", "posedHeat", "sideEdges", "roundLength", "contourOf", "isWithin"],
);

test("a pose of a point is undone by its reverse", () => {
  for (const pose of poses) {
    assert.deepEqual(unposedPoint(posedPoint([30, 70], PICTURE, pose), PICTURE, pose), [30, 70]);
  }
});

test("a grid is posed as its pixels' centres are", () => {
  const size = { width: 3, height: 2 }, values = Uint8Array.from([0, 1, 2, 3, 4, 5]);
  for (const pose of poses) {
    const posed = posedGrid(values, size, pose), { width } = posedSize(size, pose);
    for (let i = 0; i < 6; i++) {
      const [x, y] = posedPoint([(i % 3) + 0.5, Math.floor(i / 3) + 0.5], size, pose);
      assert.equal(posed[Math.floor(y) * width + Math.floor(x)], values[i], JSON.stringify(pose));
    }
  }
  assert.deepEqual([...posedGrid(values, size, { turns: 1, mirrored: false })], [3, 0, 4, 1, 5, 2]);
  assert.deepEqual([...posedGrid(values, size, { turns: 0, mirrored: true })], [2, 1, 0, 5, 4, 3]);
});

test("outlines and heat keep their place on the picture in every pose", () => {
  const size = { width: 3, height: 2 };
  assert.deepEqual(posedPolygons([[0, 0, 2, 1]], size, { turns: 1, mirrored: false }), [[1, 0, 0, 2]]);
  const heat = { rows: 2, columns: 4, cells: [0, 1, 2, 3, 4, 5, 6, 7], content: [0.25, 0, 0.5, 1] };
  const turned = posedHeat(heat, { turns: 1, mirrored: false });
  assert.deepEqual([turned.rows, turned.columns, turned.content], [4, 2, [0, 0.25, 1, 0.5]]);
  assert.deepEqual(turned.cells, [4, 0, 5, 1, 6, 2, 7, 3]);
});

test("the letters follow the patient's sides", () => {
  assert.deepEqual(sideEdges({ turns: 0, mirrored: false }, false), { right: "left", left: "right" });
  assert.deepEqual(sideEdges({ turns: 0, mirrored: true }, false), { right: "right", left: "left" });
  assert.deepEqual(sideEdges({ turns: 1, mirrored: false }, false), { right: "top", left: "bottom" });
  assert.deepEqual(sideEdges({ turns: 0, mirrored: false }, true), { right: "right", left: "left" });
});

test("a scale bar has a round length that fits", () => {
  assert.equal(roundLength(0.5, 250), 100);
  assert.equal(roundLength(0.5, 199), 50);
  assert.equal(roundLength(5, 0.1), null);
});

test("a point lies within a picture or not", () => {
  assert.ok(isWithin(PICTURE, [0, 200]));
  assert.ok(!isWithin(PICTURE, [401, 10]));
});

test("a contour runs where heat crosses the limit, and there is none where it does not", () => {
  const heat = { rows: 1, columns: 2, cells: [0, 8], content: [0, 0, 1, 1] };
  const lines = contourOf(heat, 4);
  assert.ok(lines.length > 0);
  for (const [x0, , x1] of lines) {
    assert.ok(Math.abs(x0 - 0.5) < 1e-6 && Math.abs(x1 - 0.5) < 1e-6);
  }
  assert.deepEqual(contourOf(heat, 9), []);
});
