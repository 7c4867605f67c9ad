import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./sheets.mjs";

const { evidenceOf, evidenceText, intervalText, strongest, byEvidence, isCalled, placeAmong, placeText, positionOf, differenceText, agreement, heatChips, thresholdText } = load(
  ["evidence.js"],
  ["evidenceOf", "evidenceText", "intervalText", "strongest", "byEvidence", "isCalled", "placeAmong", "placeText", "positionOf", "differenceText", "agreement", "heatChips", "thresholdText"],
);

// A finding whose score has a ratio of its own, with an interval from its half to its double.
function finding(p, value, changes = {}) {
  const ratio = value === null ? null : { value, low: value / 2, high: 2 * value };
  return { p, proven: true, ratio, negatives: [], points: [{ name: "balanced", threshold: 0.3, ratio: { value: 99, low: 90, high: 110 } }], ...changes };
}

// One of weights that tell a ratio of being called alone.
function withoutRatio(p, value) {
  const ratio = value === null ? null : { value, low: value / 2, high: 2 * value };
  return finding(p, null, { points: [{ name: "balanced", threshold: 0.3, ratio }] });
}

test("the words follow the ratio of the score, for and against, and only 5 and more is news", () => {
  const of = (value) => evidenceOf(finding(0.5, value), 0);
  assert.deepEqual([11, 10, 9, 5, 4.9, 2.1, 1.4, 1.2, 0.9, 0.7, 0.3, 0.15, 0.05].map((value) => of(value).word),
    ["strong", "strong", "moderate", "moderate", "weak", "weak", "weak", "neither", "neither", "weak", "weak", "moderate", "strong"]);
  assert.deepEqual([11, 5, 4.9, 0.05].map((value) => of(value).isNews), [true, true, false, false]);
  assert.equal(of(11).isOfCall, false);
});

test("operating points that coincide are told as one", () => {
  const points = [["balanced", 0.3], ["high sensitivity", 0.1], ["high specificity", 0.3]].map(([name, threshold]) => ({ name, threshold, ratio: null }));
  const of = (i) => thresholdText(finding(0.5, 2, { points }), points[i]);
  assert.deepEqual([of(0), of(1), of(2)], ["0.30 (balanced, also high specificity)", "0.10 (high sensitivity)", "0.30 (high specificity, also balanced)"]);
});

test("a ratio whose interval reaches 1 is weak at most, for and against", () => {
  const wide = finding(0.5, 12, { ratio: { value: 12, low: 0.9, high: 160 } });
  assert.deepEqual([evidenceOf(wide, 0).word, evidenceOf(wide, 0).isNews], ["weak", false]);
  assert.equal(evidenceOf(finding(0.01, 0.05, { ratio: { value: 0.05, low: 0.002, high: 1.2 } }), 0).word, "weak");
});

test("a ratio without an interval is taken at its word", () => {
  assert.equal(evidenceOf(finding(0.5, 12, { ratio: { value: 12, low: null, high: null } }), 0).word, "strong");
});

test("what is not called is no news, however high its ratio", () => {
  assert.deepEqual([evidenceOf(finding(0.29, 20), 0).word, evidenceOf(finding(0.29, 20), 0).isNews], ["strong", false]);
});

test("evidence is told in calm words", () => {
  const text = (...of) => evidenceText(evidenceOf(finding(...of), 0));
  assert.equal(text(0.9, 20, { proven: false }), "not shown to beat chance");
  assert.equal(text(0.3, 11.2), "strong evidence ×11");
  assert.equal(text(0.3, 1.6), "weak evidence ×1.6");
  assert.equal(text(0.3, 1.1), "neither way ×1.1");
  assert.equal(text(0.1, 0.4), "weakly against ×0.4");
  assert.equal(text(0.01, 0.04), "strongly against ×0.04");
  assert.equal(intervalText({ low: 0.6, high: 11.3 }), " (0.6 to 11)");
  assert.equal(intervalText({ low: null, high: null }), "");
});

test("weights that tell no ratio of a score are taken at their ratio of being called", () => {
  const text = (...of) => evidenceText(evidenceOf(withoutRatio(...of), 0));
  assert.deepEqual([text(0.29, 20), text(0.3, null), text(0.3, 6)], ["below its threshold", "above its threshold", "moderate evidence ×6.0"]);
  assert.equal(evidenceOf(withoutRatio(0.3, 6), 0).isOfCall, true);
});

test("an operating point that a finding lacks is its last one", () => {
  assert.equal(isCalled(finding(0.5, 2), 3), true);
  assert.equal(isCalled(finding(0.5, 2, { points: [] }), 0), false);
});

test("the page opens on the largest ratio among what is called and proven, not on the first", () => {
  const found = [finding(0.9, 1.4), finding(0.9, 50, { proven: false }), finding(0.35, 11), finding(0.2, 99)];
  assert.equal(strongest(found, 0), 2);
  assert.equal(strongest([finding(0.1, 9), finding(0.2, 9)], 0), null);
  assert.equal(strongest([withoutRatio(0.9, 1.4), withoutRatio(0.4, 3), withoutRatio(0.1, 9)], 0), 1);
  assert.equal(strongest([withoutRatio(0.9, null)], 0), 0);
  // Called, and yet its score speaks neither way, or against.
  assert.equal(strongest([finding(0.9, 1.2), finding(0.9, 0.4)], 0), null);
});

test("findings are listed by the ratio of their scores, and stay in order where there is none", () => {
  const found = [finding(0.9, 1.4), finding(0.9, 50, { proven: false }), finding(0.35, 11), finding(0.2, 0.3)];
  assert.deepEqual(byEvidence(found), [2, 0, 3, 1]);
  assert.deepEqual(byEvidence([withoutRatio(0.1, 2), withoutRatio(0.9, 9)]), [0, 1]);
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
  assert.equal(agreement(maskings(0.5, 0.1, 0.1), "tight", 0, 0), "called in the whole image");
  assert.equal(agreement(maskings(0.5), "none", 0, 0), "");
});

test("heat is told with the share that even heat would have", () => {
  const spot = { x: 1, y: 2, inLungs: true, side: "right" };
  assert.deepEqual(heatChips({ hottest: spot, inLung: 0.62 }, { chance: 0.23 }), [
    { text: "hottest spot in the right lung", isWarning: false },
    { text: "62 % in the lungs (even heat: 23 %)", isWarning: false },
  ]);
  const outside = heatChips({ hottest: { ...spot, inLungs: false, side: null }, inLung: 0.1 }, { chance: 0.23 });
  assert.deepEqual(outside.map(({ isWarning }) => isWarning), [true, true]);
  assert.equal(outside[0].text, "hottest spot outside the lungs");
  assert.deepEqual(heatChips({ hottest: spot, inLung: 1 }, { chance: 1 })[1], { text: "nothing but the lungs was given", isWarning: false });
  assert.equal(heatChips({ hottest: null, inLung: null }, { chance: 0.2 }), null);
});

test("a difference is that of the figures as they are shown", () => {
  assert.equal(differenceText(0.0549, 0.0651), "−0.02"); // 0.05 and 0.07
  assert.equal(differenceText(0.304, 0.296), "+0.00"); // 0.30 and 0.30
  assert.equal(differenceText(0.5, 0.25), "+0.25");
});
