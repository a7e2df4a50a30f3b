//! `doctor`: the problems that it finds, why they matter, and the commands that repair them.

use crate::cli::DoctorArgs;
use crate::report::json;
use refresh_events::run_report::Enforcement;
use refresh_host::doctor;
use refresh_host::doctor::{DoctorReport, Examined, Finding, Severity, StoreSize};
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_settings::layout::Layout;
use refresh_system::screen;
use refresh_system::screen::{Tone, fact, paint, print_line};
use refresh_system::text::{count, harmless};

/// Examines an installation and its host; changes nothing.
pub(super) fn doctor(layout: &Layout, args: &DoctorArgs) -> Result<Success, Error> {
    let examined = Examined::open(layout).map_err(Error::Usage)?;
    let report = doctor::examine(&examined).map_err(|failure| Refusal::of("doctor", failure))?;
    if args.json {
        print_line(&json::pretty(&report));
    } else {
        for line in lines(&report) {
            print_line(&line);
        }
    }
    Ok(if report.count(Severity::Problem) > 0 { Success::Findings } else { Success::Done })
}

fn lines(report: &DoctorReport) -> Vec<String> {
    let width = screen::text_width();
    let mut lines = Vec::new();
    let mut subject = None;
    for finding in &report.findings {
        if subject != Some(finding.subject) {
            subject = Some(finding.subject);
            lines.push(paint(Tone::Strong, &finding.subject.to_string()));
        }
        lines.extend(one(finding, width));
    }
    let mut reasons: Vec<&str> = Vec::new();
    for unseen in &report.unseen {
        if !reasons.contains(&unseen.why.as_str()) {
            reasons.push(&unseen.why);
        }
    }
    for why in reasons {
        let checks = report.unseen.iter().filter(|unseen| unseen.why == why).map(|unseen| unseen.check);
        let checks = checks.collect::<Vec<_>>().join(", ");
        lines.push(paint(Tone::Quiet, &format!("not checked: {checks}")));
        lines.extend(fact("why", &on_one_line(why), width));
    }
    match &report.confinement {
        Some(Enforcement::Enforced) => lines.push("confinement of units: enforced".to_owned()),
        Some(Enforcement::Missing(missing)) => {
            lines.push(paint(Tone::Quiet, "confinement of units: not all of it"));
            lines.extend(missing.iter().flat_map(|one| fact("missing", &on_one_line(one), width)));
        }
        None => {}
    }
    if !report.stores.is_empty() {
        lines.push("stores".to_owned());
        let store = |store: &StoreSize| fact(store.store, &on_one_line(&store.in_words()), width);
        lines.extend(report.stores.iter().flat_map(store));
    }
    let checked = count(report.checks, "check");
    let (problems, notes) = (report.count(Severity::Problem), report.count(Severity::Note));
    lines.push(if report.findings.is_empty() {
        format!("no problem in {checked}")
    } else {
        format!("{}, {} in {checked}", count(problems, "problem"), count(notes, "note"))
    });
    lines
}

fn one(finding: &Finding, width: usize) -> Vec<String> {
    let found = &finding.found;
    let (word, tone) = match found.severity {
        Severity::Problem => ("problem", Tone::Bad),
        Severity::Note => ("note", Tone::Warning),
    };
    let mut lines = fact(word, &format!("{} [{}]", on_one_line(&found.what), finding.check), width);
    lines[0] = lines[0].replacen(word, &paint(tone, word), 1);
    lines.extend(fact("why", &on_one_line(&found.why), width));
    // People copy it.
    lines.extend(fact("try", &on_one_line(&found.repair), usize::MAX));
    lines
}

/// Returns text of other programs, which may contain several paragraphs, as one line.
fn on_one_line(text: &str) -> String {
    harmless(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_host::doctor::{DoctorFinding, SkippedCheck, Subject};

    fn finding(check: &'static str, subject: Subject, severity: Severity, what: &str) -> Finding {
        let found =
            DoctorFinding { severity, what: what.into(), why: "it matters".into(), repair: "do this".into() };
        Finding { check, subject, found }
    }

    #[test]
    fn findings_are_grouped_and_skipped_checks_are_listed_once_for_each_reason() {
        let unseen = |check, why: &str| SkippedCheck { check, why: why.into() };
        let report = DoctorReport {
            schema: 2,
            checks: 7,
            findings: vec![
                finding("origin", Subject::WorkTree, Severity::Problem, "first\n  line\u{1b}[2J"),
                finding("mounts", Subject::WorkTree, Severity::Problem, "second"),
                finding("clock", Subject::Machine, Severity::Note, "third"),
            ],
            unseen: vec![unseen("mirror", "closed"), unseen("sudo", "other"), unseen("branch", "closed")],
            confinement: None,
            stores: vec![],
        };
        let expected = "\
working tree
  problem      first line\\u{1b}[2J [origin]
  why          it matters
  try          do this
  problem      second [mounts]
  why          it matters
  try          do this
machine
  note         third [clock]
  why          it matters
  try          do this
not checked: mirror, branch
  why          closed
not checked: sudo
  why          other
2 problems, 1 note in 7 checks";
        assert_eq!(lines(&report).join("\n"), expected);
        let well = DoctorReport { findings: vec![], unseen: vec![], ..report };
        assert_eq!(lines(&well), ["no problem in 7 checks"]);
        let enforced = DoctorReport { confinement: Some(Enforcement::Enforced), ..well.clone() };
        assert_eq!(lines(&enforced), ["confinement of units: enforced", "no problem in 7 checks"]);
        let missing = Enforcement::Missing(vec!["ProtectProc needs systemd 247".to_owned()]);
        let partly = lines(&DoctorReport { confinement: Some(missing), ..well });
        assert_eq!(
            partly[..2],
            ["confinement of units: not all of it", "  missing      ProtectProc needs systemd 247"]
        );
    }
}
