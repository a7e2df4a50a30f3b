//! Who asks the questions of a probe. Root parses nothing that the service sends, so a unit asks for it; an ordinary user asks
//! over plain http itself. TLS is always spoken in the unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::question::{ProbeResult, REQUEST, ResolvedProbe, UNIX, agent, ask_as};
use refresh_programs::process::worker;
use refresh_programs::units::{Job, Role, Units, Waiting};
use refresh_system::error::Outcome;

/// The operation of the unit.
pub const OPERATION: &str = "probe";

/// What the words for settings that cannot be used begin with.
pub(super) const SETTINGS: &str = "its settings cannot be used: ";

/// How much longer than a question its unit may take: it may have to be started.
const START: Duration = Duration::from_secs(30);

/// A question for the unit.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// What to ask; `None` shows that the unit works.
    question: Option<(ResolvedProbe, Duration)>,
}

/// What came of a question.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeResponse {
    result: Option<ProbeResult>,
}

/// Answers a request in the unit.
///
/// # Errors
/// None: each problem is an answer.
pub fn handle(request: &ProbeRequest) -> Outcome<ProbeResponse> {
    let result = request.question.as_ref().map(|(probe, limit)| match agent(probe) {
        Ok(agent) => ask_as(&agent, probe, *limit),
        Err(failure) => {
            let problem = format!("{SETTINGS}{}", failure.chain().join(": "));
            ProbeResult::Bad { problem }
        }
    });
    Ok(ProbeResponse { result })
}

/// Does the operation.
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request| handle(&request))
}

/// A unit that waits for questions. It is started before the stop, so that nothing has to be started while the service is
/// down.
#[derive(Debug)]
pub struct ProbeUnit {
    role: Role,
    waiting: Waiting,
}

impl ProbeUnit {
    /// Starts the unit for a probe with the URL `url`, where systemd has to start one: root asks only in a unit.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_for_root(units: &Units, url: Option<&str>) -> Outcome<Option<Self>> {
        let role = role(url.is_some_and(|url| url.starts_with(UNIX)));
        // Without systemd the unit is a process with the mark of the run: it would count as one that a hook left running, and
        // it starts in some milliseconds.
        if is_root() && units.can_bind() { Self::start(units, role).map(Some) } else { Ok(None) }
    }

    fn start(units: &Units, role: Role) -> Outcome<Self> {
        let job = Job::new(role, REQUEST + START);
        let waiting = units.wait_in_unit(&job, OPERATION, &ProbeRequest { question: None })?;
        Ok(Self { role, waiting })
    }
}

/// Returns the role of the unit. Who may use a socket in the file system is decided by the service, and its user may.
fn role(is_socket: bool) -> Role {
    if is_socket { Role::Inspect } else { Role::Probe }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What asks one probe.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    probe: &'a ResolvedProbe,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Here(ureq::Agent),
    InUnit { units: Box<Units>, unit: Option<Box<ProbeUnit>> },
}

impl<'a> Asker<'a> {
    /// Makes what asks `probe`. Without a waiting unit that fits, the first question starts one.
    ///
    /// # Errors
    /// The probe cannot be asked at all.
    pub(crate) fn new(probe: &'a ResolvedProbe, units: &Units, waiting: Option<ProbeUnit>) -> Outcome<Self> {
        let way = if probe.tls.is_some() || is_root() {
            let unit = waiting.filter(|unit| unit.role == role(probe.socket.is_some()));
            Way::InUnit { units: Box::new(units.clone()), unit: unit.map(Box::new) }
        } else {
            Way::Here(agent(probe)?)
        };
        Ok(Self { probe, way })
    }

    /// Asks once.
    pub(crate) fn ask(&mut self, limit: Duration) -> ProbeResult {
        match &mut self.way {
            Way::Here(agent) => ask_as(agent, self.probe, limit),
            Way::InUnit { units, unit } => ask_unit(units, unit, self.probe, limit)
                .unwrap_or_else(|failure| ProbeResult::Bad { problem: failure.chain().join(": ") }),
        }
    }
}

fn ask_unit(
    units: &Units,
    unit: &mut Option<Box<ProbeUnit>>,
    probe: &ResolvedProbe,
    limit: Duration,
) -> Outcome<ProbeResult> {
    let unit = match unit {
        Some(unit) => unit,
        none => none.insert(Box::new(ProbeUnit::start(units, role(probe.socket.is_some()))?)),
    };
    let request = ProbeRequest { question: Some((probe.clone(), limit)) };
    let response: ProbeResponse = unit.waiting.ask(&request)?;
    Ok(response.result.unwrap_or(ProbeResult::Bad { problem: "the unit gave no answer".to_owned() }))
}
