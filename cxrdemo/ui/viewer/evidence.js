// What a finding's number says, in words. Pure: what the server sent in, words and numbers out.

// A likelihood ratio from which the word holds (Jaeschke, Guyatt & Sackett, JAMA 1994: above 10
// large changes, 5 to 10 moderate, 2 to 5 small, below 2 rarely important).
const WORDS = [[10, "strong"], [5, "moderate"], [2, "weak"], [0, "hardly any"]];

const pointAt = (finding, point) => finding.points[Math.min(point, finding.points.length - 1)] ?? null;

// Whether a finding is called: at or above its threshold, by weights shown to know it.
function isCalled(finding, point) {
  const at = pointAt(finding, point);
  return Boolean(finding.proven && at && finding.p >= at.threshold);
}

// How much a finding's number speaks for it.
//
//   word    "strong" ... "hardly any" where it is called; "below" where not; "unproven"
//   ratio   how much more often patients with the finding are called than those without; or null
//   isNews  whether it is worth a colour: called, and the ratio is 5 or more. A word above "weak"
//           is not given where the ratio's interval reaches 1.
function evidenceOf(finding, point) {
  if (!finding.proven) return { word: "unproven", ratio: null, isNews: false };
  if (!isCalled(finding, point)) return { word: "below", ratio: null, isNews: false };
  const ratio = pointAt(finding, point).ratio;
  if (!ratio) return { word: "called", ratio: null, isNews: false };
  const isSure = ratio.low === null || ratio.low > 1;
  let word = WORDS.find(([from]) => ratio.value >= from)[1];
  if (!isSure && (word === "strong" || word === "moderate")) word = "weak";
  return { word, ratio: ratio.value, isNews: word === "strong" || word === "moderate" };
}

// Such as 11, 1.6 or 0.8: as many digits as the data support.
const ratioText = (ratio) => (ratio >= 9.95 ? String(Math.round(ratio)) : ratio.toFixed(1));

// Such as "strong evidence ×11".
function evidenceText({ word, ratio }) {
  if (word === "unproven") return "not shown to beat chance";
  if (word === "below") return "below its threshold";
  if (ratio === null) return "above its threshold";
  return `${word === "hardly any" ? word : `${word} evidence`} ×${ratioText(ratio)}`;
}

// The called finding with the strongest evidence, or null: what a page should open on. Ratios that
// have the same word differ by no more than their intervals; among them the place among patients
// without the finding decides, where it is known, and then the ratio.
function strongest(findings, point) {
  const weight = (finding) => {
    const { word, ratio } = evidenceOf(finding, point);
    const rank = WORDS.findIndex(([, known]) => known === word);
    const place = finding.negatives.length ? placeAmong(finding.negatives, finding.p) : 0;
    return [rank < 0 ? -WORDS.length : -rank, place, ratio ?? 0];
  };
  const isMore = (a, b) => {
    const apart = a.findIndex((value, i) => value !== b[i]);
    return apart >= 0 && a[apart] > b[apart];
  };
  let best = null;
  findings.forEach((finding, i) => {
    if (!isCalled(finding, point)) return;
    if (best === null || isMore(weight(finding), weight(findings[best]))) best = i;
  });
  return best;
}

// Where a finding's score lies on its track, 0..1: its place among patients without the finding
// where that is known, else its probability.
const positionOf = (finding, p = finding.p) => (finding.negatives.length ? placeAmong(finding.negatives, p) : p);

// The share of a sample that lies below a value, from the sample's quantiles at equal steps 0..1.
function placeAmong(quantiles, value) {
  const above = quantiles.findIndex((q) => q >= value);
  if (above < 0) return 1;
  if (above === 0) return 0;
  const low = quantiles[above - 1], high = quantiles[above];
  return (above - 1 + (value - low) / (high - low)) / (quantiles.length - 1);
}

// Such as "higher than 93 of 100 without it"; empty where it is not known.
function placeText(finding) {
  if (!finding.negatives.length) return "";
  const of100 = Math.round(100 * placeAmong(finding.negatives, finding.p));
  return of100 >= 100 ? "higher than all without it" : `higher than ${of100} of 100 without it`;
}

// What another masking makes of a finding, such as "holds in all maskings" or "not in tight".
function agreement(maskings, mode, index, point) {
  const others = Object.entries(maskings).filter(([name]) => name !== mode);
  if (!others.length) return "";
  const here = isCalled(maskings[mode].findings[index], point);
  const apart = others.filter(([, other]) => isCalled(other.findings[index], point) !== here).map(([name]) => name);
  if (!apart.length) return here ? "holds in all maskings" : "in no masking";
  return here ? `not in ${apart.join(", ")}` : `called in ${apart.join(", ")}`;
}

// Where the hottest spot lies and what chance would give: {text, isWarning} each; null: no heat.
function heatChips({ hottest, inLung }, masking) {
  if (inLung === null || !hottest) return null;
  const percent = (share) => `${Math.round(100 * share)} %`;
  return [
    { text: hottest.inLungs ? `hottest spot in the ${hottest.side ? `${hottest.side} lung` : "lungs"}` : "hottest spot outside the lungs", isWarning: !hottest.inLungs },
    { text: `${percent(inLung)} in the lungs (chance: ${percent(masking.chance)})`, isWarning: inLung < 0.9 * masking.chance },
  ];
}
