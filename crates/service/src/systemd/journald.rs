//! The journal of one invocation of a unit: the lines of the service, and the notices of systemd.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::LogPlace;
use refresh_programs::process::{ChildEnd, Finished, Program, Runner};
use refresh_system::error::Outcome;

/// The time limit of journalctl.
const DEADLINE: Duration = Duration::from_secs(20);
/// The lowest priority of systemd's own lines that are returned (syslog's "notice"). Lines about ordinary starts and
/// stops have a lower one.
const NOTICE: u64 = 5;
/// The requested fields of each record.
const FIELDS: &str = "--output-fields=MESSAGE,PRIORITY,_PID,_SYSTEMD_INVOCATION_ID";
/// The message of systemd at the beginning of a stop (`SD_MESSAGE_UNIT_STOPPING`, systemd/sd-messages.h).
const STOPPING: &str = "MESSAGE_ID=de5b426a63be47a7b6ac3eaac82e2f6f";
/// The messages of systemd after a start and after a stop (`SD_MESSAGE_UNIT_STARTED`, `SD_MESSAGE_UNIT_STOPPED`).
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";
/// The number of additional lines that are read, because some of systemd's own lines are left out.
const SPARE: usize = 40;

/// One invocation of a unit in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The unit.
    pub(super) unit: String,
    /// systemd's name of the invocation.
    pub(super) id: String,
    /// The pid of its main process, and its start time; `None` if systemd no longer has them.
    pub(super) main: Option<(i32, Timestamp)>,
}

/// Returns the last `lines` lines of an invocation.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn tail(runner: &Runner, invocation: &Invocation, lines: usize) -> Outcome<Vec<String>> {
    // The latest lines of the service may not have reached the journal yet.
    let _ = runner.run(&journalctl().arg("--sync"));
    let Invocation { unit, id, main } = invocation;
    let mut program = journalctl()
        .args(["--output=json", "--all", FIELDS])
        .arg(format!("--lines={}", lines.saturating_add(SPARE)))
        .args([format!("_SYSTEMD_INVOCATION_ID={id}"), "+".to_owned()])
        .args([format!("INVOCATION_ID={id}"), "_PID=1".to_owned()]);
    if let Some((pid, _)) = main {
        program = program.args(["+".to_owned(), format!("_SYSTEMD_UNIT={unit}"), format!("_PID={pid}")]);
    }
    let mut found = parse_tail(&ask(runner, &program)?.stdout, invocation);
    found.drain(..found.len().saturating_sub(lines));
    Ok(found)
}

/// Returns whether systemd got a request to stop an invocation: a service that ends by itself is not stopped.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn was_stopped(runner: &Runner, invocation: &Invocation) -> Outcome<bool> {
    let _ = runner.run(&journalctl().arg("--sync"));
    let program = journalctl()
        .args(["--output=json", "--output-fields=MESSAGE", "--lines=1", "_PID=1", STOPPING])
        .arg(format!("INVOCATION_ID={}", invocation.id));
    Ok(!ask(runner, &program)?.stdout.is_empty())
}

/// The last event of a unit, of its successful starts and its stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastEvent {
    /// Whether it is a stop that was requested, and not a part of a restart.
    pub(super) is_requested_stop: bool,
    /// systemd's name of the invocation that it began or ended.
    pub(super) invocation: String,
    /// When it was complete.
    pub(super) at: Timestamp,
}

/// Returns the last event of a unit since the boot; `None` if the journal has none.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn last_event(runner: &Runner, unit: &str) -> Outcome<Option<LastEvent>> {
    let _ = runner.run(&journalctl().arg("--sync"));
    // A confined unit cannot read the ID of the boot, which `--boot` needs. The newest entry has it.
    let newest = ask(runner, &journalctl().args(["--output=json", "--output-fields=_BOOT_ID", "--lines=1"]))?;
    let newest = records(&newest.stdout).next_back();
    let Some(boot) = newest.as_ref().and_then(|entry| entry.get("_BOOT_ID")?.as_str()) else {
        return Ok(None);
    };
    let program = journalctl()
        .args(["--output=json", "--output-fields=INVOCATION_ID,MESSAGE_ID,JOB_TYPE", "--lines=1"])
        .args(["_PID=1".to_owned(), format!("_BOOT_ID={boot}"), format!("UNIT={unit}")])
        .args([STARTED, STOPPED].map(|id| format!("MESSAGE_ID={id}")));
    Ok(parse_last_event(&ask(runner, &program)?.stdout))
}

fn parse_last_event(output: &[u8]) -> Option<LastEvent> {
    let last = records(output).next_back()?;
    let text = |name: &str| last.get(name).and_then(Value::as_str);
    let is_requested_stop = text("MESSAGE_ID") == Some(STOPPED) && text("JOB_TYPE") == Some("stop");
    let at = Timestamp::from_microsecond(text("__REALTIME_TIMESTAMP")?.parse().ok()?).ok()?;
    let invocation = text("INVOCATION_ID").unwrap_or_default().to_owned();
    Some(LastEvent { is_requested_stop, invocation, at })
}

/// Returns the commands that sudo and cron have logged in the last minute, in their original form.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn commands(runner: &Runner) -> Outcome<Vec<String>> {
    let program = journalctl()
        .args(["--output=json", "--output-fields=MESSAGE", "--since=-60s", "--lines=200"])
        .args(["SYSLOG_IDENTIFIER=sudo", "SYSLOG_IDENTIFIER=CRON"]);
    Ok(records(&ask(runner, &program)?.stdout).filter_map(|record| message(record.get("MESSAGE")?)).collect())
}

/// Returns the last invocation of a unit in the journal.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn last_invocation(runner: &Runner, unit: &str) -> Outcome<Option<Invocation>> {
    let program = journalctl()
        .args(["--output=json", "--output-fields=INVOCATION_ID", "--lines=50", "_PID=1"])
        .arg(format!("UNIT={unit}"));
    let id = parse_invocation(&ask(runner, &program)?.stdout);
    Ok(id.map(|id| Invocation { unit: unit.to_owned(), id, main: None }))
}

/// Returns the lines of a unit after a cursor, else the last `lines`, and the cursor after them.
///
/// # Errors
/// journalctl cannot be queried.
pub(super) fn after(
    runner: &Runner,
    unit: &str,
    place: Option<&LogPlace>,
    lines: usize,
) -> Outcome<(Vec<String>, Option<LogPlace>)> {
    let start = match place {
        Some(LogPlace::Cursor(cursor)) => format!("--after-cursor={cursor}"),
        // Only a line has a cursor.
        _ => format!("--lines={}", lines.max(1)),
    };
    let program = journalctl().args(["--output=json", "--all", "--output-fields=MESSAGE"]);
    let found = ask(runner, &program.arg(format!("--unit={unit}")).arg(start))?;
    let (mut all, mut next) = (Vec::new(), place.cloned());
    for record in records(&found.stdout) {
        all.extend(record.get("MESSAGE").and_then(message));
        let cursor = record.get("__CURSOR").and_then(Value::as_str);
        next = cursor.map(|cursor| LogPlace::Cursor(cursor.to_owned())).or(next);
    }
    if place.is_none() {
        all.drain(..all.len().saturating_sub(lines));
    }
    Ok((all, next))
}

fn journalctl() -> Program {
    Program::new("journalctl").args(["--no-pager", "--quiet"]).deadline(DEADLINE)
}

fn ask(runner: &Runner, program: &Program) -> Outcome<Finished> {
    let finished = runner.run(program)?;
    // Without a match it exits with 1 and prints nothing.
    let nothing =
        finished.ended == ChildEnd::Exited(1) && finished.stdout.is_empty() && finished.stderr.is_empty();
    if nothing { Ok(finished) } else { finished.ok(|| "cannot read the journal".to_owned()) }
}

/// Reads the records of journalctl, one JSON object per line.
fn records(output: &[u8]) -> impl DoubleEndedIterator<Item = Value> {
    let lines: Vec<&[u8]> = output.split(|byte| *byte == b'\n').collect();
    lines.into_iter().filter_map(|line| serde_json::from_slice(line).ok())
}

fn parse_tail(output: &[u8], invocation: &Invocation) -> Vec<String> {
    let line = |record: Value| {
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let message = message(record.get("MESSAGE")?)?;
        if text("_PID") == Some("1") {
            let priority: u64 = text("PRIORITY").and_then(|text| text.parse().ok()).unwrap_or(0);
            // The fence forbids the restart of a service that has died: that is no cause of its death.
            let is_fence = ["sserts failed", "ssertion failed"].iter().any(|end| message.contains(end));
            return (priority <= NOTICE && !is_fence).then(|| format!("systemd: {message}"));
        }
        // If a process ends before journald has inspected it, its lines lack the name of the invocation. Lines of the
        // main process are recognized by its pid and by their time.
        let main = || {
            let (_, since) = invocation.main?;
            let written: i64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
            Some(since.as_microsecond() <= written)
        };
        let named = text("_SYSTEMD_INVOCATION_ID").map(|id| id == invocation.id);
        let ours = named.or_else(main).unwrap_or(false);
        ours.then_some(message)
    };
    records(output).filter_map(line).collect()
}

/// A message is text, or a list of byte values if it is not text.
fn message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Option<Vec<u8>> = items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes?).into_owned())
        }
        // A field that occurs more than once.
        Value::Array(items) => items.iter().find_map(message),
        _ => None,
    }
}

fn parse_invocation(output: &[u8]) -> Option<String> {
    records(output).rev().find_map(|record| record.get("INVOCATION_ID")?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation() -> Invocation {
        let main = Some((7, Timestamp::from_microsecond(100).unwrap()));
        Invocation { unit: "x.service".to_owned(), id: "aa".to_owned(), main }
    }

    fn parse(output: &[u8]) -> Vec<String> {
        parse_tail(output, &invocation())
    }

    #[test]
    fn a_stop_is_requested_if_its_job_is_a_stop_and_not_the_first_half_of_a_restart() {
        let record = |id: &str, job: &str| {
            format!(
                "{{\"__REALTIME_TIMESTAMP\":\"1000000\",\"MESSAGE_ID\":\"{id}\",\"JOB_TYPE\":\"{job}\",\"INVOCATION_ID\":\"i\"}}\n"
            )
        };
        let at = Timestamp::from_second(1).unwrap();
        for (id, job, is_requested_stop) in
            [(STOPPED, "stop", true), (STARTED, "start", false), (STOPPED, "restart", false)]
        {
            let event = LastEvent { is_requested_stop, invocation: "i".to_owned(), at };
            assert_eq!(parse_last_event(record(id, job).as_bytes()), Some(event), "{id} {job}");
        }
        assert_eq!(parse_last_event(b""), None);
    }

    #[test]
    fn rw_7_1b_all_lines_of_the_service_are_shown_and_only_notices_of_systemd() {
        let output = br#"{"_PID":"1","MESSAGE":"Started x.","PRIORITY":"6"}
{"_PID":"7","_SYSTEMD_INVOCATION_ID":"aa","MESSAGE":"no such table","PRIORITY":"6"}
{"_PID":"1","MESSAGE":"Main process exited, code=exited, status=3","PRIORITY":"5"}
{"_PID":"1","MESSAGE":"x.service: Starting requested but asserts failed.","PRIORITY":"5"}
{"_PID":"1","MESSAGE":"Assertion failed for x.","PRIORITY":"3"}
"#;
        assert_eq!(parse(output), ["no such table", "systemd: Main process exited, code=exited, status=3"]);
    }

    #[test]
    fn rw_7_1b_lines_of_a_short_lived_process_are_recognized_by_pid_and_time() {
        let output = br#"{"_PID":"7","__REALTIME_TIMESTAMP":"99","MESSAGE":"an older process of that pid"}
{"_PID":"7","__REALTIME_TIMESTAMP":"100","MESSAGE":"no such table"}
{"_PID":"7","__REALTIME_TIMESTAMP":"101","_SYSTEMD_INVOCATION_ID":"bb","MESSAGE":"another invocation"}
"#;
        assert_eq!(parse(output), ["no such table"]);
        let unknown = Invocation { main: None, ..invocation() };
        assert_eq!(parse_tail(output, &unknown), Vec::<String>::new());
    }

    #[test]
    fn a_message_that_is_not_text_is_read_as_bytes() {
        let message =
            |json: &str| parse(format!(r#"{{"_SYSTEMD_INVOCATION_ID":"aa","MESSAGE":{json}}}"#).as_bytes());
        assert_eq!(message("[104,105,255]"), ["hi\u{fffd}"]);
        assert_eq!(message(r#"["one","two"]"#), ["one"]);
        assert_eq!(message("null"), Vec::<String>::new());
    }

    #[test]
    fn the_last_invocation_is_that_of_the_last_record_that_has_one() {
        let output = b"{\"INVOCATION_ID\":\"aa\"}\n{\"INVOCATION_ID\":\"bb\"}\n{\"MESSAGE\":\"x\"}\n";
        assert_eq!(parse_invocation(output).as_deref(), Some("bb"));
        assert_eq!(parse_invocation(b""), None);
    }
}
