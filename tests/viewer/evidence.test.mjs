import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { evidenceOf, evidenceText, strongest, isCalled, placeAmong, placeText, positionOf, agreement, heatChips } = load(
  ["evidence.js"],
  ["evidenceOf", "evidenceText", "strongest", "isCalled", "placeAmong", "placeText", "positionOf", "agreement", "heatChips"],
);

function finding(p, value, changes = {}) {
  const ratio = value === null ? null : { value, low: value / 2, high: 2 * value };
  return { p, proven: true, negatives: [], points: [{ name: "balanced", threshold: 0.3, ratio }], ...changes };
}

test("the words follow the likelihood ratio, and only 5 and more is news", () => {
  const of = (value) => evidenceOf(finding(0.5, value), 0);
  assert.deepEqual([11, 10, 9, 5, 4.9, 2.1, 1.4].map((value) => of(value).word),
    ["strong", "strong", "moderate", "moderate", "weak", "weak", "hardly any"]);
  assert.deepEqual([11, 5, 4.9].map((value) => of(value).isNews), [true, true, false]);
});

test("a ratio whose interval reaches 1 is weak at most", () => {
  const wide = finding(0.5, 12);
  wide.points[0].ratio.low = 0.9;
  assert.deepEqual(evidenceOf(wide, 0), { word: "weak", ratio: 12, isNews: false });
});

test("a ratio without an interval is taken at its word", () => {
  const bare = finding(0.5, 12);
  Object.assign(bare.points[0].ratio, { low: null, high: null });
  assert.equal(evidenceOf(bare, 0).word, "strong");
});

test("no verdict without proof, and none below the threshold", () => {
  assert.equal(evidenceText(evidenceOf(finding(0.9, 20, { proven: false }), 0)), "not shown to beat chance");
  assert.equal(evidenceText(evidenceOf(finding(0.29, 20), 0)), "below its threshold");
  assert.equal(evidenceText(evidenceOf(finding(0.3, null), 0)), "above its threshold");
  assert.equal(evidenceText(evidenceOf(finding(0.3, 11.2), 0)), "strong evidence ×11");
  assert.equal(evidenceText(evidenceOf(finding(0.3, 1.44), 0)), "hardly any ×1.4");
});

test("an operating point that a finding lacks is its last one", () => {
  assert.equal(isCalled(finding(0.5, 2), 3), true);
  assert.equal(isCalled(finding(0.5, 2, { points: [] }), 0), false);
});

test("the page opens on the largest ratio among what is called and proven, not on the first", () => {
  const found = [finding(0.9, 1.4), finding(0.9, 50, { proven: false }), finding(0.35, 11), finding(0.2, 99)];
  assert.equal(strongest(found, 0), 2);
  assert.equal(strongest([finding(0.1, 9), finding(0.2, 9)], 0), null);
  assert.equal(strongest([finding(0.9, null)], 0), 0);
});

test("among ratios of the same word the place among patients without the finding decides", () => {
  const negatives = [0, 0.1, 0.2, 0.4, 0.8];
  const low = finding(0.35, 1.9, { negatives }), high = finding(0.7, 1.4, { negatives });
  assert.equal(strongest([low, high], 0), 1);
  assert.equal(strongest([low, finding(0.31, 2.1, { negatives }), high], 0), 1);
});

test("a place among quantiles lies between them, and never beyond 0 and 1", () => {
  const quantiles = [0, 0.1, 0.2, 0.4, 0.8];
  assert.deepEqual([-1, 0, 0.1, 0.3, 0.8, 2].map((p) => placeAmong(quantiles, p)), [0, 0, 0.25, 0.625, 1, 1]);
  assert.equal(placeAmong([0, 0.2, 0.2, 0.2, 1], 0.2), 0.25);
});

test("a place is told only where it is known", () => {
  const known = finding(0.3, 2, { negatives: [0, 0.1, 0.2, 0.4, 0.8] });
  assert.equal(placeText(known), "higher than 63 of 100 without it");
  assert.equal(positionOf(known), 0.625);
  assert.equal(placeText(finding(0.3, 2)), "");
  assert.equal(positionOf(finding(0.3, 2)), 0.3);
});

test("what the other maskings say is told in few words", () => {
  const maskings = (...ps) => Object.fromEntries(ps.map((p, i) => [["none", "loose", "tight"][i], { findings: [finding(p, 3)] }]));
  assert.equal(agreement(maskings(0.5, 0.5, 0.5), "none", 0, 0), "holds in all maskings");
  assert.equal(agreement(maskings(0.5, 0.5, 0.1), "none", 0, 0), "not in tight");
  assert.equal(agreement(maskings(0.1, 0.5, 0.1), "none", 0, 0), "called in loose");
  assert.equal(agreement(maskings(0.1, 0.1, 0.1), "tight", 0, 0), "in no masking");
  assert.equal(agreement(maskings(0.5), "none", 0, 0), "");
});

test("heat is told with the share that chance would give", () => {
  const spot = { x: 1, y: 2, inLungs: true, side: "right" };
  assert.deepEqual(heatChips({ hottest: spot, inLung: 0.62 }, { chance: 0.23 }), [
    { text: "hottest spot in the right lung", isWarning: false },
    { text: "62 % in the lungs (chance: 23 %)", isWarning: false },
  ]);
  const outside = heatChips({ hottest: { ...spot, inLungs: false, side: null }, inLung: 0.1 }, { chance: 0.23 });
  assert.deepEqual(outside.map(({ isWarning }) => isWarning), [true, true]);
  assert.equal(outside[0].text, "hottest spot outside the lungs");
  assert.equal(heatChips({ hottest: spot, inLung: 0.95 }, { chance: 1 })[1].isWarning, false);
  assert.equal(heatChips({ hottest: null, inLung: null }, { chance: 0.2 }), null);
});
