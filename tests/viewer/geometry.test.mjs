import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const {
  placed, toPane, toPicture, directionInPicture, posedSize, reachable, boxBetween, isWithin, sideEdges,
  rounded, toNative, heightOf, roundLength, middleOf, distanceBetween, contourOf, seenOf,
} = load(
  ["geometry.js"],
  ["placed", "toPane", "toPicture", "directionInPicture", "posedSize", "reachable", "boxBetween", "isWithin", "sideEdges",
    "rounded", "toNative", "heightOf", "roundLength", "middleOf", "distanceBetween", "contourOf", "seenOf"],
);

const PICTURE = { width: 400, height: 200, native: [1600, 400] };
const PANE = { width: 640, height: 480 };
const MIDDLE = { zoom: 1, x: 0, y: 0 };
const POSES = [0, 1, 2, 3].flatMap((turns) => [{ turns, mirrored: false }, { turns, mirrored: true }]);
const close = (a, b) => a.forEach((value, i) => assert.ok(Math.abs(value - b[i]) < 1e-9, `${a} is not ${b}`));

test("a picture is fitted whole and in the middle of its pane", () => {
  assert.deepEqual(placed(PICTURE, { width: 800, height: 800 }, MIDDLE), { scale: 2, a: 2, b: 0, c: 0, d: 2, e: 0, f: 200 });
  assert.deepEqual(placed(PICTURE, { width: 800, height: 200 }, MIDDLE), { scale: 1, a: 1, b: 0, c: 0, d: 1, e: 200, f: 0 });
  const turned = placed(PICTURE, { width: 800, height: 800 }, { ...MIDDLE, turns: 1 });
  assert.equal(turned.scale, 2);
  close(toPane(turned, [0, 0]), [600, 0]); // the upper left corner is the upper right one then
  close(toPane(turned, [400, 200]), [200, 800]);
});

test("a turn is clockwise, and what is mirrored is mirrored before it is turned", () => {
  const square = { width: 100, height: 100 };
  const corner = (pose) => toPane(placed(square, square, { ...MIDDLE, ...pose }), [0, 0]);
  close(corner({ turns: 0, mirrored: true }), [100, 0]);
  close(corner({ turns: 1, mirrored: false }), [100, 0]);
  close(corner({ turns: 2, mirrored: false }), [100, 100]);
  close(corner({ turns: 3, mirrored: false }), [0, 100]);
  close(corner({ turns: 1, mirrored: true }), [100, 100]);
});

test("the way to the pane and back ends where it began, in every pose", () => {
  for (const pose of POSES) {
    const at = placed(PICTURE, PANE, { zoom: 3, x: 50, y: -20, ...pose });
    close(toPicture(at, toPane(at, [123, 45])), [123, 45]);
    close(toPane(at, [PICTURE.width / 2 + 50, PICTURE.height / 2 - 20]), [320, 240]);
    const [dx, dy] = directionInPicture(at, [10, 0]), [x, y] = toPane(at, [123 + dx, 45 + dy]), from = toPane(at, [123, 45]);
    close([x - from[0], y - from[1]], [10, 0]);
  }
});

test("a picture on its side is as wide as it was high", () => {
  assert.deepEqual(posedSize(PICTURE, { turns: 3 }), { width: 200, height: 400 });
  assert.deepEqual(posedSize(PICTURE, { turns: 2 }), { width: 400, height: 200 });
});

test("a view cannot leave the picture", () => {
  assert.deepEqual(reachable(PICTURE, 1, 300, -300), { x: 0, y: -0 });
  assert.deepEqual(reachable(PICTURE, 2, 300, -300), { x: 100, y: -50 });
  assert.deepEqual(reachable(PICTURE, 2, 10, 20), { x: 10, y: 20 });
});

test("a box has its corners in order and lies in the picture", () => {
  assert.deepEqual(boxBetween(PICTURE, [90, 150], [-5, 260]), [0, 150, 90, 200]);
  assert.deepEqual(boxBetween(PICTURE, [10, 20], [30, 40]), [10, 20, 30, 40]);
  assert.ok(isWithin(PICTURE, [400, 0]) && !isWithin(PICTURE, [401, 0]) && !isWithin(PICTURE, [0, -1]));
});

test("R and L follow the picture: each stands at the edge where that side is drawn", () => {
  for (const pose of POSES) {
    const square = { width: 100, height: 100 }, at = placed(square, square, { ...MIDDLE, ...pose });
    const edgeAt = ([x, y]) => (x < 1 ? "left" : x > 99 ? "right" : y < 1 ? "top" : "bottom");
    const seen = { right: edgeAt(toPane(at, [0, 50])), left: edgeAt(toPane(at, [100, 50])) };
    assert.deepEqual(sideEdges(pose, false), seen);
    assert.deepEqual(sideEdges(pose, true), { right: seen.left, left: seen.right });
  }
});

test("an outline is rounded at its corners and stays where it is between them", () => {
  const line = rounded([0, 0, 40, 0, 40, 40, 0, 40], 3);
  assert.deepEqual(line[0], [0.5, 3.5, 0.5, 0.5, 3.5, 0.5]);
  assert.equal(line.length, 4);
  for (const [x0, y0, x, y, x1, y1] of line) {
    assert.ok(Math.hypot(x - x0, y - y0) <= 3 && Math.hypot(x - x1, y - y1) <= 3);
  }
  // Of short sides no more than a half, so that two curves never cross; a point twice is no matter.
  assert.deepEqual(rounded([0, 0, 2, 0, 2, 2], 3)[1], [1.5, 0.5, 2.5, 0.5, 2.5, 1.5]);
  assert.ok(rounded([5, 5, 5, 5, 9, 9]).flat().every(Number.isFinite));
});

test("the image as read may have another size along each axis", () => {
  assert.deepEqual(toNative(PICTURE, [100, 50]), [400, 100]);
});

test("the height of polygons counts both ends", () => {
  assert.equal(heightOf([[0, 10, 5, 12], [7, 3, 9, 30]]), 28);
});

test("a scale bar has a round length that fits, or there is none", () => {
  assert.equal(roundLength(0.5, 250), 100);
  assert.equal(roundLength(0.5, 199), 50);
  assert.equal(roundLength(0.001, 5000), 5);
  assert.equal(roundLength(10, 0.05), null);
});

test("a pinch has a middle and a reach that is never nothing", () => {
  const a = { clientX: 10, clientY: 20 }, b = { clientX: 40, clientY: 60 };
  assert.deepEqual(middleOf(a, b), { clientX: 25, clientY: 40 });
  assert.equal(distanceBetween(a, b), 50);
  assert.equal(distanceBetween(a, a), 1);
});

test("a contour runs where the heat reaches its limit", () => {
  const heat = { rows: 1, columns: 2, cells: [0, 1], content: [0, 0, 1, 1] };
  const lines = contourOf(heat, 0.5);
  assert.ok(lines.length > 0);
  for (const [x0, , x1] of lines) assert.ok(Math.abs(x0 - 0.5) < 0.02 && Math.abs(x1 - 0.5) < 0.02);
  assert.deepEqual(contourOf(heat, 2), []);
});

test("what is saved is what is seen, without the bars, no coarser than screen or picture", () => {
  const small = { width: 200, height: 200 };
  const whole = seenOf(PICTURE, small, MIDDLE, 2);
  // At its own pixels: the pane shows it at half its size, which even two pixels each do not exceed.
  assert.deepEqual([whole.width, whole.height, whole.ratio], [400, 200, 2]);
  close(toPane(whole.at, [0, 0]), [0, 0]);
  close(toPane(whole.at, [400, 200]), [400, 200]);
  for (const pose of POSES) {
    const { width, height } = posedSize(PICTURE, pose), seen = seenOf(PICTURE, small, { ...MIDDLE, ...pose }, 1);
    assert.deepEqual([seen.width, seen.height], [width, height]);
    const corners = [toPane(seen.at, [0, 0]), toPane(seen.at, [400, 200])];
    close([0, 1].map((k) => Math.min(corners[0][k], corners[1][k])), [0, 0]);
  }
  // On a screen finer than the picture: the screen's pixels.
  assert.deepEqual(seenOf(PICTURE, { width: 800, height: 800 }, MIDDLE, 2).width, 1600);
  // Zoomed in, the part that is seen.
  const zoomed = seenOf(PICTURE, small, { zoom: 4, x: 50, y: 0 }, 1);
  assert.deepEqual([zoomed.width, zoomed.height, zoomed.ratio], [200, 200, 1]);
  close(toPicture(zoomed.at, [100, 100]), [250, 100]);
  assert.equal(Math.max(...["width", "height"].map((side) => seenOf({ width: 9000, height: 300 }, small, MIDDLE, 1, 4096)[side])), 4096);
});
