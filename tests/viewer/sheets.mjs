// The viewer's pure sheets, loaded as its page does: joined, as the body of one function.
import { readFileSync } from "node:fs";

const FOLDER = new URL("../../cxrdemo/ui/viewer/", import.meta.url);

export function load(sheets, names) {
  const text = sheets.map((sheet) => readFileSync(new URL(sheet, FOLDER), "utf-8")).join("\n");
  return new Function(`"use strict";\n${text}\nreturn { ${names.join(", ")} };`)();
}
