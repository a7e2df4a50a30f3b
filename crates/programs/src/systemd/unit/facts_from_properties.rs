//! Reads the facts of a unit from the properties that systemd sends. Pure.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use zvariant::OwnedObjectPath;

use super::{ActiveState, Assertion, FailedCommand, LoadState, UnitFacts, exit_kind};
use crate::process::ExitKind;
use crate::systemd::properties::Properties;
use refresh_system::error::{Failure, Outcome};

/// A command of a unit: program, arguments, whether its failure is ignored; when it was begun and ended (twice each, by
/// two clocks), pid, code, status.
type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

impl Properties {
    pub(super) fn facts(&self) -> Outcome<UnitFacts> {
        let (_, message) = self.value::<(String, String)>("LoadError").unwrap_or_default();
        let first = self.commands("ExecStart").into_iter().next();
        let (program, command) = first.map(|(program, words, ..)| (program.into(), words)).unzip();
        Ok(UnitFacts {
            load: self.load_state()?,
            load_error: Some(message).filter(|message| !message.is_empty()),
            active: self.active_state()?,
            sub: self.text("SubState"),
            result: self.text("Result"),
            active_since: self.time("ActiveEnterTimestamp"),
            inactive_since: self.time("InactiveEnterTimestamp"),
            main_pid: self.pid("MainPID"),
            last_main_pid: self.pid("ExecMainPID"),
            main_started: self.time("ExecMainStartTimestamp"),
            main_ended: self.time("ExecMainExitTimestamp"),
            main_code: self.value("ExecMainCode").unwrap_or_default(),
            main_status: self.value("ExecMainStatus").unwrap_or_default(),
            restarts: self.value("NRestarts").unwrap_or_default(),
            invocation: hex::encode(self.value::<Vec<u8>>("InvocationID").unwrap_or_default()),
            control_group: self.text("ControlGroup"),
            slice: self.text("Slice"),
            kind: self.text("Type"),
            kill_mode: self.text("KillMode"),
            stop_timeout: self.span("TimeoutStopUSec"),
            start_timeout: self.span("TimeoutStartUSec"),
            user: self.text("User"),
            pid_file: self.text("PIDFile"),
            fragment: Some(self.text("FragmentPath")).filter(|path| !path.is_empty()).map(PathBuf::from),
            drop_ins: self.value::<Vec<String>>("DropInPaths").map(paths).unwrap_or_default(),
            needs_reload: self.value("NeedDaemonReload").unwrap_or_default(),
            environment_files: self
                .value::<Vec<(String, bool)>>("EnvironmentFiles")
                .map(|files| paths(files.into_iter().map(|(path, _)| path)))
                .unwrap_or_default(),
            program,
            command: command.unwrap_or_default(),
            words: self.words("ExecStart"),
            working_directory: self.text("WorkingDirectory").trim_start_matches(['-', '!']).to_owned(),
            environment: self.value("Environment").unwrap_or_default(),
            failed_commands: self.failed_commands(),
            start_needs: self.start_needs(),
            needs: self.units(&["Requires", "Requisite", "BindsTo"]),
            requisites: self.units(&["Requisite"]),
            stopped_by: self.units(&["Requires", "Requisite", "BindsTo", "PartOf", "StopPropagatedFrom"]),
            stops: self.units(&["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"]),
            triggered_by: self.units(&["TriggeredBy"]),
            triggers: self.units(&["Triggers"]),
            listens: self.value("Listen").unwrap_or_default(),
            accepts: self.value("Accept").unwrap_or_default(),
            refuses_start: self.value("RefuseManualStart").unwrap_or_default(),
            refuses_stop: self.value("RefuseManualStop").unwrap_or_default(),
            success_action: self.text("SuccessAction"),
            failure_action: self.text("FailureAction"),
            start_limit_action: self.text("StartLimitAction"),
            assertions: self.assertions(),
            conditions_held: self.value("ConditionResult").unwrap_or_default(),
            assertions_held: self.value("AssertResult").unwrap_or_default(),
            file_state: self.text("UnitFileState"),
            job: self.job(),
        })
    }

    fn load_state(&self) -> Outcome<LoadState> {
        Ok(match self.text("LoadState").as_str() {
            "loaded" | "merged" | "stub" => LoadState::Loaded,
            "not-found" => LoadState::NotFound,
            "masked" => LoadState::Masked,
            "bad-setting" | "error" => LoadState::Bad,
            other => return Err(Failure::new(format!("its LoadState is {other:?}"))),
        })
    }

    fn active_state(&self) -> Outcome<ActiveState> {
        Ok(match self.text("ActiveState").as_str() {
            "active" | "reloading" | "refreshing" => ActiveState::Active,
            "inactive" => ActiveState::Inactive,
            "failed" => ActiveState::Failed,
            "activating" => ActiveState::Activating,
            "deactivating" | "maintenance" => ActiveState::Deactivating,
            other => return Err(Failure::new(format!("its ActiveState is {other:?}"))),
        })
    }

    fn assertions(&self) -> Vec<Assertion> {
        let all = self.value::<Vec<(String, bool, bool, String, i32)>>("Asserts").unwrap_or_default();
        let assertion = |(kind, triggering, negated, parameter, state)| Assertion {
            kind,
            triggering,
            negated,
            parameter,
            held: (state != 0).then_some(state > 0),
        };
        all.into_iter().map(assertion).collect()
    }

    fn commands(&self, key: &str) -> Vec<Command> {
        self.value(key).unwrap_or_default()
    }

    /// Returns the words of all commands.
    pub(in crate::systemd) fn words(&self, key: &str) -> Vec<String> {
        self.commands(key).into_iter().flat_map(|(_, words, ..)| words).collect()
    }

    /// Returns the programs of commands whose failure counts.
    pub(in crate::systemd) fn programs(&self, key: &str) -> Vec<String> {
        let counting = self.commands(key).into_iter().filter(|(_, _, ignored, ..)| !ignored);
        counting.map(|(program, ..)| program).collect()
    }

    fn failed_commands(&self) -> Vec<FailedCommand> {
        let of = |key: &'static str| {
            self.commands(key).into_iter().filter_map(move |(_, words, ignored, .., code, status)| {
                let how = exit_kind(code, status).filter(|how| !ignored && *how != ExitKind::Code(0))?;
                Some(FailedCommand { key, command: words.join(" "), how })
            })
        };
        ["ExecCondition", "ExecStartPre", "ExecStartPost"].into_iter().flat_map(of).collect()
    }

    fn job(&self) -> Option<u32> {
        let (number, _) = self.value::<(u32, OwnedObjectPath)>("Job")?;
        (number != 0).then_some(number)
    }

    fn pid(&self, name: &str) -> Option<i32> {
        self.value::<u32>(name).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
    }

    /// Returns a time from its microseconds; 0 and the largest number mean no time.
    fn time(&self, name: &str) -> Option<Timestamp> {
        let microseconds = self.value::<u64>(name).filter(|number| *number != 0 && *number != u64::MAX)?;
        Timestamp::from_microsecond(i64::try_from(microseconds).ok()?).ok()
    }

    fn span(&self, name: &str) -> Option<Duration> {
        self.value::<u64>(name).filter(|number| *number != u64::MAX).map(Duration::from_micros)
    }
}

fn paths(texts: impl IntoIterator<Item = String>) -> Vec<PathBuf> {
    texts.into_iter().map(PathBuf::from).collect()
}
