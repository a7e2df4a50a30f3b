//! Units as transient services of systemd, with all properties of the table that its version supports.

use super::UnitOptions;
use super::context::{UnitContext, unique};
use super::credentials::{CREDENTIALS, Copies};
use super::run_unit::{is_inside, unit_of};
use super::running::Running;
use super::socket_drop_in::SocketDropIn;
use super::table::Role;
use crate::process::RUN_MARK;
use crate::systemd::Bus;
use crate::systemd::process_unit::{ProcessUnit, Stdin};
use crate::systemd::property::for_version;
use refresh_settings::names::UnitName;
use refresh_system::checkpoint;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Outcome};

/// The version of systemd that introduced `LoadCredential`.
const CREDENTIALS_SINCE: u32 = 247;

/// The number of the capability (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// Returns whether systemd has a capability that it can pass on: in a container it may not have it, and would refuse
/// the start.
fn manager_has(capability: u32) -> bool {
    let status = std::fs::read_to_string("/proc/1/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_none_or(|set| set >> capability & 1 == 1)
}

/// Starts the process of a unit with these options.
pub(super) fn start(
    units: &UnitContext,
    options: &UnitOptions,
    word: &str,
    user: Owner,
    stdin: Stdin,
) -> Outcome<Running> {
    let bus = Bus::connect()?;
    let version = bus.version()?;
    let (mut properties, _) = for_version(options.role.properties_of(options.brief), version);
    if !manager_has(CAP_NET_ADMIN) {
        properties.retain(|property| property.name != "AmbientCapabilities");
    }
    let name = format!("ladylinux-refresh-{}-{}.service", options.role, unique());
    let mut variables: Vec<(String, String)> =
        checkpoint::for_worker().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // Processes with the mark are ended after each hook; a unit with sockets outlives the hooks.
    let mark = units.runner.run_id().filter(|_| options.sockets.is_none());
    variables.extend(mark.map(|run| (RUN_MARK.to_owned(), run.to_string())));
    let copies = copies_for(units, options, user, version)?;
    let directory = copies.as_ref().map(|copies| copies.directory().display().to_string());
    variables.extend(directory.map(|directory| (CREDENTIALS.to_owned(), directory)));
    let credentials = options.credentials.iter().filter(|_| copies.is_none());
    let write = |sockets| SocketDropIn::write(&units.layout, &name, sockets);
    let sockets = options.sockets.as_ref().map(write).transpose()?;
    let unit = ProcessUnit {
        name: &name,
        description: &format!("LadyLinux refresh: {word}"),
        program: units.program_of_unit()?,
        arguments: vec![super::inside::COMMAND.to_owned(), word.to_owned()],
        variables,
        uid: user.uid,
        gid: user.gid,
        properties: &properties,
        writable: options.writable.iter().cloned().chain(checkpoint::trace()).collect(),
        binds: options.binds.clone(),
        credentials: credentials.map(|one| (one.name.clone(), one.source.clone())).collect(),
        bound_to: own_unit(units),
        lifetime: Role::lifetime(options.deadline),
        memory: options.role.memory(total_memory()),
    };
    let started = bus.start_process(&unit, stdin).context(|| format!("cannot start a unit for {word}"))?;
    if sockets.is_some() {
        checkpoint::reach("socket:unit-started");
    }
    Ok(Running { started, unit: Some(name), _copies: copies, _sockets: sockets })
}

/// Copies the secrets of a unit if this version of systemd cannot pass them on.
fn copies_for(
    units: &UnitContext,
    options: &UnitOptions,
    user: Owner,
    version: u32,
) -> Outcome<Option<Copies>> {
    let are_needed = version < CREDENTIALS_SINCE && !options.credentials.is_empty();
    are_needed.then(|| Copies::make(units, options, user)).transpose()
}

/// Returns the unit of the run of this process: units that it starts end with it.
fn own_unit(units: &UnitContext) -> Option<String> {
    let name = UnitName::parse(&unit_of(units.runner.run_id()?)).ok()?;
    is_inside(&name).then(|| name.to_string())
}

fn total_memory() -> u64 {
    let found = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "its width differs between architectures")]
    let (total, unit) = (u64::from(found.totalram), u64::from(found.mem_unit));
    total.saturating_mul(unit)
}

/// Returns the restrictions that this systemd does not put into force, a sentence each.
pub(super) fn missing(bus: &Bus) -> Outcome<Vec<String>> {
    let version = bus.version()?;
    let mut all: Vec<String> =
        Role::ALL.iter().flat_map(|role| for_version(role.properties(), version).1).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use refresh_events::event::Events;
    use refresh_settings::layout::Layout;
    use refresh_system::disk;

    use super::*;
    use crate::process::Runner;
    use crate::units::Credential;

    #[test]
    fn a_systemd_that_cannot_pass_secrets_on_gets_copies_that_end_with_the_unit() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("token");
        disk::write_atomic(&source, b"s3cret", 0o600).unwrap();
        let owner = Owner::own();
        let layout = Layout::below(directory.path());
        let units = UnitContext { layout, runner: Runner::new(Arc::new(Events::silent())), service: owner };
        let mut options = UnitOptions::new(Role::Fetch, Duration::from_secs(1));
        let copies_at = |options: &UnitOptions, version| copies_for(&units, options, owner, version).unwrap();
        assert!(copies_at(&options, 246).is_none(), "a unit without secrets needs no copies");
        options.credentials.push(Credential { name: "token".to_owned(), source });
        assert!(copies_at(&options, 247).is_none());
        let copies = copies_at(&options, 246).unwrap();
        let copy = copies.directory().join("token");
        assert_eq!(disk::read_if_there(&copy).unwrap().unwrap(), b"s3cret");
        drop(copies);
        assert!(!copy.exists());
    }
}
