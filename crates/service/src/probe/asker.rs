//! Who asks the questions of a probe. The caller itself asks over plain http; TLS is spoken in a unit, because its handshake is
//! much to parse of what the service sends, and a unit is neither root nor the service user.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::question::{ProbeResult, REQUEST, ResolvedProbe, agent, ask_as};
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

/// What asks one probe.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    probe: &'a ResolvedProbe,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Here(ureq::Agent),
    InUnit { units: Box<Units>, unit: Option<Box<Waiting>> },
}

impl<'a> Asker<'a> {
    /// Makes what asks `probe`. The unit is started by the first question.
    ///
    /// # Errors
    /// The probe cannot be asked at all.
    pub(crate) fn new(probe: &'a ResolvedProbe, units: &Units) -> Outcome<Self> {
        let way = if probe.tls.is_some() {
            Way::InUnit { units: Box::new(units.clone()), unit: None }
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
    unit: &mut Option<Box<Waiting>>,
    probe: &ResolvedProbe,
    limit: Duration,
) -> Outcome<ProbeResult> {
    let waiting = match unit {
        Some(waiting) => waiting,
        none => {
            let job = Job::new(Role::Probe, REQUEST + START);
            none.insert(Box::new(units.wait_in_unit(&job, OPERATION, &ProbeRequest { question: None })?))
        }
    };
    let request = ProbeRequest { question: Some((probe.clone(), limit)) };
    let response: ProbeResponse = waiting.ask(&request)?;
    Ok(response.result.unwrap_or(ProbeResult::Bad { problem: "the unit gave no answer".to_owned() }))
}
