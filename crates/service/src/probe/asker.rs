//! Sends the requests of a probe. Root parses nothing that the service sends, so a unit sends them for root; an
//! ordinary user sends plain http itself. TLS is always handled in the unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::question::{ProbeResult, ResolvedProbe, UNIX, agent, ask_as};
use refresh_programs::process::worker;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_system::error::Outcome;

/// The operation of the unit.
pub const OPERATION: &str = "probe";

/// The beginning of the message about unusable settings.
pub(super) const SETTINGS: &str = "its settings cannot be used: ";

/// The extra time of the unit beyond the limit of a request: it may need a start.
const START: Duration = Duration::from_secs(30);

/// A request to the unit.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    probe: ResolvedProbe,
    limit: Duration,
}

/// Sends the request to the service, inside the unit.
///
/// # Errors
/// None: each problem is an answer.
pub fn handle(request: &ProbeRequest) -> Outcome<ProbeResult> {
    Ok(match agent(&request.probe) {
        Ok(agent) => ask_as(&agent, &request.probe, request.limit),
        Err(failure) => {
            let problem = format!("{SETTINGS}{}", failure.chain().join(": "));
            ProbeResult::Bad { problem }
        }
    })
}

/// Performs the operation.
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request| handle(&request))
}

/// Returns the role of the unit for requests to `url`. The service decides who may use a socket in the file system; its
/// own user may.
pub fn role(url: Option<&str>) -> Role {
    if url.is_some_and(|url| url.starts_with(UNIX)) { Role::Inspect } else { Role::Probe }
}

/// The sender of one probe.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    probe: &'a ResolvedProbe,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Here(ureq::Agent),
    InUnit(Box<Units>),
}

impl<'a> Asker<'a> {
    /// Creates the sender of `probe`. For root, a unit sends the requests; the first request starts it if none waits.
    ///
    /// # Errors
    /// The probe cannot be sent at all.
    pub(crate) fn new(probe: &'a ResolvedProbe, units: &Units) -> Outcome<Self> {
        let in_unit = probe.tls.is_some() || rustix::process::geteuid().is_root();
        let way = if in_unit { Way::InUnit(Box::new(units.clone())) } else { Way::Here(agent(probe)?) };
        Ok(Self { probe, way })
    }

    /// Sends one request.
    pub(crate) fn ask(&self, limit: Duration) -> ProbeResult {
        match &self.way {
            Way::Here(agent) => ask_as(agent, self.probe, limit),
            Way::InUnit(units) => {
                let options = UnitOptions::new(role(Some(&self.probe.url)), limit + START);
                let request = ProbeRequest { probe: self.probe.clone(), limit };
                let asked = units.call(&options, OPERATION, &request);
                asked.unwrap_or_else(|failure| ProbeResult::Bad { problem: failure.chain().join(": ") })
            }
        }
    }
}
