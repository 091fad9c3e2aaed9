// Package reports draws a run: for people while it happens and afterwards, and
// for machines.
//
// A run directory holds what was recorded, events.ndjson and history.jsonl, and
// the judges make a [lab.Report] of it. Everything here is a pure function of
// these three, so that any saved run can be drawn again. There are two ways in:
//
//   - [Write] puts report.json, report.html, report.md and junit.xml beside the
//     records; [StepSummary] hands the markdown to a CI job page; [JSON] and
//     [Summary] say how several runs went.
//   - A [Story] is told each event as it happens and prints what a person at a
//     terminal wants to know; [Text] is the end of that story.
//
// Two rules hold in every format. What commands, clients and members said is
// foreign text: control sequences are taken out, secrets are blacked out, see
// clean.go, and each format escapes the rest its own way. And no state is told
// by colour alone: there is always a word, and where there is room a shape.
//
// Where a drawing cannot show everything it shows the extremes, and says what
// it left out.
package reports
