// What a finding's number says, in words. Pure: what the server sent in, words and numbers out.

// A likelihood ratio from which the word holds, and its inverse against (Jaeschke, Guyatt & Sackett,
// JAMA 1994: above 10 large changes, 5 to 10 moderate, 2 to 5 small, below 2 rarely important).
const WORDS = [[10, "strong"], [5, "moderate"], [1.25, "weak"], [0, "neither"]];

const pointAt = (finding, point) => finding.points[Math.min(point, finding.points.length - 1)] ?? null;

// Whether a finding is called: at or above its threshold, by weights shown to know it.
function isCalled(finding, point) {
  const at = pointAt(finding, point);
  return Boolean(finding.proven && at && finding.p >= at.threshold);
}

// How much a finding's number speaks for it, or against it.
//
//   word     "strong", "moderate", "weak" or "neither"; where the weights tell no ratio of a score,
//            also "below" or "called"; "unproven"
//   ratio    {value, low, high}: the likelihood ratio of the score, or null
//   isOfCall whether it is that of being called at all, in place of the score's own
//   isNews   whether it is worth a colour: called, and the ratio is 5 or more. A word above "weak"
//            is not given where the ratio's interval reaches 1.
function evidenceOf(finding, point) {
  const none = { ratio: null, isOfCall: false, isNews: false };
  if (!finding.proven) return { word: "unproven", ...none };
  const isOfCall = !finding.ratio;
  if (isOfCall && !isCalled(finding, point)) return { word: "below", ...none };
  const ratio = finding.ratio ?? pointAt(finding, point).ratio;
  if (!ratio) return { word: "called", ...none };
  const { value, low, high } = ratio, isSure = low === null || low > 1 || high < 1;
  let word = WORDS.find(([from]) => Math.max(value, 1 / value) >= from)[1];
  if (!isSure && (word === "strong" || word === "moderate")) word = "weak";
  const isNews = value > 1 && (word === "strong" || word === "moderate") && isCalled(finding, point);
  return { word, ratio, isOfCall, isNews };
}

// How far one probability is from another, as a reader would take one shown figure from the other.
function differenceText(p, other) {
  const by = Math.round(100 * p) - Math.round(100 * other);
  return `${by < 0 ? "−" : "+"}${(Math.abs(by) / 100).toFixed(2)}`;
}

// Such as 11, 1.6, 0.8 or 0.08: as many digits as the data support.
const ratioText = (ratio) => (ratio >= 9.95 ? String(Math.round(ratio)) : ratio.toFixed(ratio < 0.095 ? 2 : 1));

const intervalText = ({ low, high }) => (low === null ? "" : ` (${ratioText(low)} to ${ratioText(high)})`);

// Such as "0.30 (balanced)"; points that coincide are told as one, "0.30 (balanced, also high specificity)".
function thresholdText(finding, point) {
  const others = finding.points.filter(({ name, threshold }) => threshold === point.threshold && name !== point.name);
  return `${point.threshold.toFixed(2)} (${[point.name, ...others.map(({ name }) => `also ${name}`)].join(", ")})`;
}

// Such as "strong evidence ×11", "weakly against ×0.4": short enough for a tile of three maskings.
function evidenceText({ word, ratio }) {
  if (word === "unproven") return "not shown to beat chance";
  if (word === "below") return "below its threshold";
  if (word === "called") return "above its threshold";
  const times = `×${ratioText(ratio.value)}`;
  if (word === "neither") return `neither way ${times}`;
  return ratio.value < 1 ? `${word}ly against ${times}` : `${word} evidence ${times}`;
}

// The called finding with the strongest evidence for it, or null: what a page should open on. Being
// called at a ratio that speaks neither way is none.
function strongest(findings, point) {
  const told = findings.map((finding) => evidenceOf(finding, point));
  const weight = (i) => told[i].ratio?.value ?? 0;
  const speaks = ({ word, ratio }) => word !== "neither" && !(ratio && ratio.value < 1);
  const all = findings.map((_, i) => i).filter((i) => isCalled(findings[i], point) && speaks(told[i]));
  return all.length ? all.reduce((best, i) => (weight(i) > weight(best) ? i : best)) : null;
}

// The findings in the order in which they are listed: by the ratio of their scores, those without a
// verdict last. Where scores have no ratio the order stays.
function byEvidence(findings) {
  const weight = ({ proven, ratio }) => (proven ? 1 + (ratio?.value ?? 0) : 0);
  const order = findings.map((_, i) => i);
  if (!findings.some(({ ratio }) => ratio)) return order;
  return order.sort((a, b) => weight(findings[b]) - weight(findings[a]));
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
  const apart = others.filter(([, other]) => isCalled(other.findings[index], point) !== here).map(([name]) => (name === "none" ? "the whole image" : name));
  if (!apart.length) return here ? "holds in all maskings" : "in no masking";
  return here ? `not in ${apart.join(", ")}` : `called in ${apart.join(", ")}`;
}

// Where the hottest spot lies, and what share lies in the lungs beside that of even heat:
// {text, isWarning} each; null: no heat.
function heatChips({ hottest, inLung }, masking) {
  if (inLung === null || !hottest) return null;
  const percent = (share) => `${Math.round(100 * share)} %`;
  return [
    { text: hottest.inLungs ? `hottest spot in the ${hottest.side ? `${hottest.side} lung` : "lungs"}` : "hottest spot outside the lungs", isWarning: !hottest.inLungs },
    masking.chance > 0.995
      ? { text: "nothing but the lungs was given", isWarning: false }
      : { text: `${percent(inLung)} in the lungs (even heat: ${percent(masking.chance)})`, isWarning: inLung < 0.9 * masking.chance },
  ];
}
