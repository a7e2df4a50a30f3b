//! The units of `service.also`: stopped and started with the service, under the same fence.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::{Systemd, dropin, not_loaded, requirements, start, start_needs};
use crate::others;
use crate::others::Down;
use crate::{Before, Stopped};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::job::JobResult;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_settings::names::UnitName;
use refresh_system::clock;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;

impl Systemd {
    /// Stops the service and the units with it. First come the units that the service does not need: they do not add to
    /// its downtime. Then come the service, and the units that it needs, whose stop would have stopped it.
    ///
    /// # Errors
    /// One of them cannot be stopped; the later ones were not stopped.
    pub(super) fn stop_together(&self) -> Outcome<Stopped> {
        let needed = if self.also.is_empty() {
            Vec::new()
        } else {
            let bus = Bus::connect()?;
            self.note_ended(&bus)?;
            self.facts(&bus)?.stopped_by
        };
        let is_needed = |unit: &&UnitName| needed.iter().any(|name| name == unit.as_str());
        let began = clock::monotonic();
        self.were_up.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut others = Vec::new();
        for unit in self.also.iter().filter(|unit| !is_needed(unit)) {
            others.push((unit, self.stop_other(unit)?));
        }
        let before = clock::monotonic().duration_since(began);
        let mut stopped = self.stop_unit().context(|| format!("cannot stop {}", self.unit))?;
        stopped.others_took = before;
        for unit in self.also.iter().filter(is_needed) {
            others.push((unit, self.stop_other(unit)?));
        }
        for (unit, other) in others {
            stopped.leftovers.extend(other.leftovers);
            stopped.notes.extend(other.notes.into_iter().map(|note| format!("{unit}: {note}")));
            if other.before != Before::Stopped {
                stopped.others.push(unit.to_string());
            }
        }
        Ok(stopped)
    }

    /// Records which invocations the stop is about to end. On a disk that cannot be written, the service is stopped all the
    /// same; such a unit then counts as stopped by a person.
    fn note_ended(&self, bus: &Bus) -> Outcome<()> {
        let mut ended = BTreeMap::new();
        for unit in &self.also {
            let facts = bus.unit(unit.as_str())?;
            if !facts.is_down() {
                ended.insert(unit.to_string(), facts.invocation);
            }
        }
        let _ = others::note_ended(&self.layout, ended);
        Ok(())
    }

    /// Stops one unit, and remembers that it was up, even if the stop of a later unit fails.
    fn stop_other(&self, unit: &UnitName) -> Outcome<Stopped> {
        let stopped = self
            .other(unit)
            .stop_unit()
            .context(|| format!("cannot stop {unit}, which is stopped with {}", self.unit))?;
        if stopped.before != Before::Stopped {
            self.were_up.lock().unwrap_or_else(PoisonError::into_inner).push(unit.to_string());
        }
        Ok(stopped)
    }

    /// Starts those units that are not active, except jobs, which a timer or a path unit starts, and units that stay down.
    /// Returns warnings about units that were down before the stop and do not start. Must be called while the start of the
    /// service is admitted.
    ///
    /// # Errors
    /// Another one cannot be started.
    pub(super) fn start_together(&self, bus: &Bus) -> Outcome<Vec<String>> {
        let down = others::noted_down(&self.layout);
        let (mut started, mut warnings) = (Vec::new(), Vec::new());
        for unit in &self.also {
            if self.is_job(unit, &bus.unit(unit.as_str())?) || down.keeps(unit) {
                continue;
            }
            match self.start_other(bus, unit) {
                Ok(invocation) if !down.has(unit) => started.push((unit.clone(), invocation)),
                Ok(_) => {}
                Err(failure) if down.has(unit) && failure.interrupted_by().is_none() => {
                    let why = failure.chain().join(": ");
                    warnings.push(format!("{unit}, which was down before, does not start: {why}"));
                }
                Err(failure) => {
                    let context = || format!("cannot start {unit}, which is started with {}", self.unit);
                    return Err(failure).context(context);
                }
            }
        }
        *self.together.lock().unwrap_or_else(PoisonError::into_inner) = started;
        Ok(warnings)
    }

    /// Finds the units that are down while the service runs, and those that have failed or do so again and again. One that
    /// does its work and ends does not stay down, and neither does one that this program has stopped.
    pub(super) fn find_down(&self, bus: &Bus) -> Outcome<Down> {
        let is_up = self.facts(bus)?.active == ActiveState::Active;
        let ended = others::noted_ended(&self.layout);
        let mut down = Down::default();
        for unit in &self.also {
            let facts = bus.unit(unit.as_str())?;
            if facts.awaits_restart() {
                down.otherwise.push(unit.to_string());
            }
            if !facts.is_down() {
                continue;
            }
            let stop =
                if is_up && facts.kind != "oneshot" { self.other(unit).find_requested_stop()? } else { None };
            if stop.is_some_and(|(_, invocation)| ended.get(unit.as_str()) != Some(&invocation)) {
                down.on_request.push(unit.to_string());
            } else if is_up || facts.active == ActiveState::Failed {
                down.otherwise.push(unit.to_string());
            }
        }
        Ok(down)
    }

    /// Returns whether a unit waits for its timer or its path unit. A job that the stop has ended is started again.
    fn is_job(&self, unit: &UnitName, facts: &UnitFacts) -> bool {
        let were_up = self.were_up.lock().unwrap_or_else(PoisonError::into_inner);
        facts.kind == "oneshot" && has_trigger(facts) && !were_up.iter().any(|it| it == unit.as_str())
    }

    /// Returns those units that wait for their timer or their path unit, or were down before the stop and are again.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub(super) fn find_left_down(&self) -> Outcome<Vec<String>> {
        let (bus, down) = (Bus::connect()?, others::noted_down(&self.layout));
        let mut left = Vec::new();
        for unit in &self.also {
            let facts = bus.unit(unit.as_str())?;
            if self.is_job(unit, &facts) || down.has(unit) && (facts.is_down() || facts.awaits_restart()) {
                left.push(unit.to_string());
            }
        }
        Ok(left)
    }

    /// Starts one unit if it is not active; returns its invocation.
    pub(super) fn start_other(&self, bus: &Bus, unit: &UnitName) -> Outcome<String> {
        let other = self.other(unit);
        let before = other.facts(bus)?;
        if before.active == ActiveState::Active {
            return Ok(before.invocation);
        }
        if let Some(why) = not_loaded(unit, &before) {
            return Err(Failure::new(why).command("systemctl status", &[&unit]));
        }
        bus.remember(unit.as_str())?;
        bus.reset_failed(unit.as_str())?;
        let result = other.await_start(bus, &before)?;
        let after = other.facts(bus)?;
        let is_done = matches!(result, JobResult::Done | JobResult::Unheard);
        // A unit that has done its work and ended counts as up.
        let is_up = after.active == ActiveState::Active
            || may_end(&after) && after.active == ActiveState::Inactive && after.result == "success";
        if is_done && is_up { Ok(after.invocation) } else { Err(start::why_not(unit, &result, &after)) }
    }

    /// Checks that the units that were started with the service still run in the same invocation.
    ///
    /// # Errors
    /// One does not run, or was restarted meanwhile.
    pub(super) fn check_together(&self) -> Outcome<()> {
        let started = self.together.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bus = Bus::connect()?;
        for (unit, invocation) in started {
            let facts = bus.unit(unit.as_str())?;
            // A unit that does its work and ends need not stay up.
            if may_end(&facts) && facts.active == ActiveState::Inactive {
                continue;
            }
            if facts.invocation != invocation || facts.active == ActiveState::Failed {
                return Err(Failure::new(format!(
                    "{unit}, which is started with {}, did not stay up",
                    self.unit
                ))
                .command("journalctl -u", &[&unit]));
            }
        }
        Ok(())
    }

    /// Checks, before anything is stopped, that each of those units can be stopped, started and fenced.
    ///
    /// # Errors
    /// One cannot.
    pub fn check_also(&self) -> Outcome<()> {
        let bus = &Bus::connect()?;
        for unit in &self.also {
            let facts = bus.unit(unit.as_str())?;
            if let Some(why) = not_loaded(unit, &facts) {
                let hint = match facts.load {
                    LoadState::Masked => Hint::command("systemctl unmask", &[unit]),
                    _ => Hint::Text(format!(
                        "take it out of `also` under [service] in {}",
                        self.layout.host_file().display()
                    )),
                };
                return Err(Failure::new(format!("service.also: {why}")).hint(hint));
            }
            requirements::check_manual(unit, &facts)?;
            requirements::check_action(unit, &facts)?;
            requirements::check_order(bus, unit)?;
            start_needs::check(&self.layout, &self.runner, unit, &facts)?;
            requirements::check_needs(bus, unit, &facts)?;
            dropin::check(&self.layout, unit, &facts)?;
        }
        Ok(())
    }

    /// Returns whether one of those units is up.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub(super) fn is_any_other_up(&self) -> Outcome<bool> {
        let bus = Bus::connect()?;
        for unit in &self.also {
            if !bus.unit(unit.as_str())?.is_down() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn other(&self, unit: &UnitName) -> Self {
        Self::new(self.layout.clone(), unit.clone(), self.runner.clone())
    }
}

/// Returns whether a timer or a path unit starts a unit.
fn has_trigger(facts: &UnitFacts) -> bool {
    facts.triggered_by.iter().any(|name| matches!(name.rsplit_once('.'), Some((_, "timer" | "path"))))
}

/// Returns whether a unit may do its work and end. Without `Type=oneshot`, a unit with a timer can be such a job, or a
/// worker that the timer only starts at boot.
fn may_end(facts: &UnitFacts) -> bool {
    facts.kind == "oneshot" || has_trigger(facts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use refresh_events::event::Events;
    use refresh_programs::process::Runner;
    use refresh_settings::layout::Layout;

    use super::*;

    #[test]
    fn a_worker_with_a_timer_is_started_and_a_job_waits_for_its_timer() {
        let name = |name: &str| UnitName::parse(name).unwrap();
        let runner = Runner::new(Arc::new(Events::silent()));
        let service = Systemd::new(Layout::below("/r"), name("x.service"), runner);
        let is_job = |kind: &str, trigger: &str| {
            let facts = UnitFacts {
                kind: kind.to_owned(),
                triggered_by: vec![trigger.to_owned()],
                ..UnitFacts::default()
            };
            service.is_job(&name("worker.service"), &facts)
        };
        assert!(is_job("oneshot", "worker.timer") && is_job("oneshot", "worker.path"));
        assert!(!is_job("simple", "worker.timer") && !is_job("notify", "worker.path"));
        assert!(!is_job("oneshot", "worker.socket"));
        service.were_up.lock().unwrap().push("worker.service".to_owned());
        assert!(!is_job("oneshot", "worker.timer"), "the stop has ended it");
    }
}
