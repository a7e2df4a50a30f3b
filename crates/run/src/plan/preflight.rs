//! Checks whether this host can be refreshed. Read-only; all findings are reported, not only the first.

use std::net::IpAddr;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use refresh_installation::installation;
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_programs::process::ProcessId;
use refresh_programs::systemd::root_exec::RootExec;
use refresh_service::port::Address;
use refresh_service::supervisor::SERVICE_MARK;
use refresh_service::{ServiceState, port, port_holder, probe};
use refresh_settings::trust;
use refresh_settings::users::SERVICE_USER;
use refresh_source::exchange;
use refresh_source::work_tree::{TreeKind, TreeState};
use refresh_system::disk::mounts;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::aside;
use refresh_system::text::quoted_path;

use super::space::Makes;
use super::{Observed, reach, space};

/// Checks that a refresh may begin, and collects all obstacles. Returns warnings for a person.
///
/// # Errors
/// The obstacles.
pub fn check(on: &Installation, observed: &Observed, makes: Makes) -> Outcome<Vec<String>> {
    let mut warnings = Vec::new();
    warnings.extend(ignored_units(on));
    let reached = reach::check(on, &observed.service).map(|found| warnings.extend(found));
    let checks = [
        on.service.check().and_then(|()| no_root_execs(on)),
        no_socket_beside_units(on.settings.service.socket, on.service.has_units(), &on.layout.host_file()),
        outside(on),
        trust::check(&on.layout),
        rights(on),
        not_roots(on),
        protected(on),
        repository(on, &observed.tree),
        executable(&on.layout.store()),
        not_mounted(on).and_then(|()| movable(on, &observed.tree)),
        remote(on),
        space::check(on, makes),
        on.interpreter().map(|_| ()),
        system_packages(on),
        probe(on, &observed.service),
        reached,
    ];
    combined(checks.into_iter().filter_map(Result::err).collect())?;
    Ok(warnings)
}

/// Returns a warning with the units of `service.also` if there is no systemd to stop and start them.
fn ignored_units(on: &Installation) -> Option<String> {
    let also = &on.settings.service.also;
    if on.service.has_units() || also.is_empty() {
        return None;
    }
    let names: Vec<String> = also.iter().map(ToString::to_string).collect();
    Some(format!(
        "service.also names {}: only systemd stops and starts units, so they are left alone",
        names.join(", ")
    ))
}

/// Refuses `service.socket` beside units: it is a setting of the embedded supervisor, and systemd has socket units for
/// that purpose.
fn no_socket_beside_units(socket: Option<IpAddr>, has_units: bool, file: &Path) -> Outcome<()> {
    if socket.is_none() || !has_units {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} sets service.socket, and systemd keeps the service: its sockets are socket units",
        file.display()
    ))
    .hint(format!("remove `socket` under [service] in {}", quoted_path(file)))
    .command("ladylinux-refresh init --socket", &[]))
}

/// Combines several failures into one, each with its cause and hint. Two checks may find the same problem.
fn combined(mut problems: Vec<Failure>) -> Outcome<()> {
    let mut seen = Vec::new();
    problems.retain(|problem| {
        let is_new = !seen.contains(&problem.chain());
        seen.push(problem.chain());
        is_new
    });
    match problems.len() {
        0 => return Ok(()),
        1 => return Err(problems.remove(0)),
        _ => {}
    }
    let all: Vec<String> = problems
        .iter()
        .map(|problem| format!("- {}", problem.chain().join(": ").replace('\n', "\n  ")))
        .collect();
    let failure = Failure::new(format!("{} problems prevent a refresh:\n{}", problems.len(), all.join("\n")));
    Err(problems.iter().flat_map(Failure::hints).fold(failure, Failure::hint))
}

/// Refuses a unit that runs something of the application as root, except for commands that the host names: every person
/// who can push a commit controls their content.
fn no_root_execs(on: &Installation) -> Outcome<()> {
    refuse_root_execs(&on.service.describe(), &on.service.root_execs()?, &on.settings.service.allow_root_exec)
}

fn refuse_root_execs(unit: &str, found: &[RootExec], allowed: &[String]) -> Outcome<()> {
    let Some(first) = found.iter().find(|it| !allowed.contains(&it.path)) else { return Ok(()) };
    let path = &first.path;
    Err(Failure::new(format!("{unit} runs {path} as root: {}", first.why))
        .command("systemctl edit --full", &[&unit])
        .hint(format!(
            "or, where root is to run it, add {path:?} to service.allow_root_exec in /etc/ladylinux/refresh.toml"
        )))
}

/// Refuses a command that the service itself started and that must stop the service: it would end with the service.
///
/// # Errors
/// This process was started by the service.
pub fn outside(on: &Installation) -> Outcome<()> {
    let of_this_service = |process: ProcessId| {
        let root = format!("@{}", on.layout.root().display());
        process.variable(SERVICE_MARK).is_some_and(|mark| mark.ends_with(&root))
    };
    if std::iter::successors(Some(ProcessId::own()), |process| process.parent()).any(of_this_service) {
        return Err(Failure::new("this command was started from inside the service, which it must stop")
            .hint("start it from a shell, a timer or a build agent: what the service starts ends with it"));
    }
    Ok(())
}

fn rights(on: &Installation) -> Outcome<()> {
    installation::check_writable(&on.layout)?;
    if on.owner.can_be_assumed() {
        return Ok(());
    }
    let (uid, own) = (on.owner.uid, rustix::process::geteuid().as_raw());
    Err(Failure::new(format!("app/ belongs to uid {uid}, and this program runs as uid {own}"))
        .hint(Hint::shell(installation::with_sudo()).with_purpose("run it as that user, or as root")))
}

/// Refuses a real machine on which the application belongs to root.
///
/// # Errors
/// Root owns the application.
pub fn not_roots(on: &Installation) -> Outcome<()> {
    if !on.layout.is_real() || on.owner.uid != 0 {
        return Ok(());
    }
    let app = on.layout.app();
    Err(Failure::new(format!(
        "{} belongs to root: whatever the application brings along would run as root",
        app.display()
    ))
    .hint(Hint::shell(give_to_service_user(&app))))
}

/// Returns the command that gives `app/` itself to the service user; a run replaces its content. It follows no link
/// that other users may put in the place of `app/`.
pub(crate) fn give_to_service_user(app: &Path) -> String {
    format!("chown -h {SERVICE_USER}: {}", quoted_path(app))
}

/// Refuses every layout in which a protected path is inside the working tree, by any route.
///
/// # Errors
/// A protected path is inside the working tree.
pub fn protected(on: &Installation) -> Outcome<()> {
    let layout = &on.layout;
    let app = real(&layout.app());
    let mut inside = layout.protected();
    inside.extend([layout.store(), layout.venv(), layout.state(), layout.env_file(), layout.host_file()]);
    inside.extend(layout.data());
    for path in inside {
        let named = real(&path);
        if named.starts_with(&app) {
            return Err(Failure::new(format!(
                "{} lies inside the working tree {}: removing untracked files would remove it",
                path.display(),
                app.display()
            ))
            .hint(format!(
                "move it out of {}, or make {} a separate clone",
                app.display(),
                layout.app().display()
            )));
        }
    }
    // A bind mount leaves no trace in the names.
    let mounts = mounts::all()?;
    let tree = mounts::place_on_disk(&mounts, &app);
    for path in layout.protected() {
        let place = mounts::place_on_disk(&mounts, &real(&path));
        if let (Some(tree), Some(place)) = (&tree, &place)
            && place.0 == tree.0
            && place.1.starts_with(&tree.1)
        {
            return Err(Failure::new(format!(
                "{} is mounted from inside the working tree {}: removing untracked files would remove it",
                path.display(),
                app.display()
            ))
            .command("findmnt", &[&path]));
        }
    }
    if app != layout.app() {
        return Err(Failure::new(format!("{} leads to {}", layout.app().display(), app.display()))
            .hint("the working tree must be a real directory, not a symbolic link"));
    }
    if layout.home().join(".git").symlink_metadata().is_ok() {
        return Err(Failure::new(format!(
            "{} is a working tree itself, around models and environments",
            layout.home().display()
        ))
        .hint(format!(
            "move {0}/.git out of the way; the working tree is {0}/app",
            layout.home().display()
        )));
    }
    Ok(())
}

/// Resolves links as far as the path exists; missing parts stay as they are.
fn real(path: &Path) -> std::path::PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_path_buf(),
    }
}

/// Refuses an `app/` that may be a different directory. After a refresh has deployed there, its content is replaced
/// regardless of its repository, which the service user can remove at any time.
///
/// # Errors
/// `app/` is not a working tree of this installation, or cannot be read.
pub fn repository(on: &Installation, tree: &TreeState) -> Outcome<()> {
    let app = on.layout.app();
    let why = match tree.kind {
        // A first deployment: the prepared tree brings a repository.
        TreeKind::Repository | TreeKind::Absent => return Ok(()),
        TreeKind::NotADirectory if is_deployed(on) => {
            let failure = Failure::new(format!("{} is not a real directory", app.display()));
            return Err(failure.command("mv", &[&app, &aside(&app)]));
        }
        TreeKind::NotADirectory => "is not a real directory",
        TreeKind::ForeignRepository | TreeKind::NoRepository if is_deployed(on) => return Ok(()),
        TreeKind::ForeignRepository => "belongs to a Git repository somewhere else",
        TreeKind::NoRepository => "is not a Git working tree",
    };
    Err(Failure::new(format!("{} {why}", app.display()))
        .hint(on.typed(Hint::command("ladylinux-refresh init --repo URL", &[]))))
}

fn is_deployed(on: &Installation) -> bool {
    status_file::read(&on.layout).deployed.is_some()
}

/// Refuses mounts in the working tree: mounted files do not belong to the application. A rename of a directory above
/// the mount would move it into the previous tree, which is removed.
///
/// # Errors
/// Something is mounted in the working tree, or the mounts cannot be read.
pub fn not_mounted(on: &Installation) -> Outcome<()> {
    let found = mounts::below(&on.layout.app())?;
    let Some(first) = found.first() else { return Ok(()) };
    let place = first.display();
    let what = if *first == on.layout.app() {
        "the working tree is a mount"
    } else {
        "there is a mount inside the working tree"
    };
    Err(Failure::new(format!("{what}: {place}{}", and_more(found.len())))
        .hint(format!("check the mount, then: umount {}", quoted_path(first))))
}

/// Refuses a store, beside which `app/` is, on a mount from which nothing may be executed: neither the scripts of hooks
/// nor the programs of an environment could start.
fn executable(store: &Path) -> Outcome<()> {
    let Ok(found) = rustix::fs::statvfs(store) else { return Ok(()) };
    let mounts = mounts::all()?;
    let point = mounts::of(&mounts, &real(store)).map_or(Path::new("/"), |mount| &mount.point);
    refuse_noexec(store, found.f_flag, point)
}

fn refuse_noexec(store: &Path, flags: StatVfsMountFlags, point: &Path) -> Outcome<()> {
    if !flags.contains(StatVfsMountFlags::NOEXEC) {
        return Ok(());
    }
    Err(Failure::new(format!("{} is mounted with noexec: no program in it can start", store.display()))
        .command("mount -o remount,exec", &[&point]))
}

/// Refuses entries that cannot be moved out of the working tree, or across to the next one, or removed with the
/// previous one.
///
/// # Errors
/// An entry cannot be moved.
pub fn movable(on: &Installation, tree: &TreeState) -> Outcome<()> {
    // Entries that another user cannot move must not prevent a refresh.
    if !on.owner.can_be_assumed() || matches!(tree.kind, TreeKind::NotADirectory | TreeKind::Absent) {
        return Ok(());
    }
    exchange::check(&on.layout)?;
    immovable(tree)
}

/// Refuses a working tree with an entry that is immutable, append-only or a mount.
///
/// # Errors
/// An entry cannot be moved.
pub fn immovable(tree: &TreeState) -> Outcome<()> {
    let Some(first) = tree.immovable.first() else { return Ok(()) };
    let failure = exchange::immovable(first.path.as_path(), first.obstacle);
    if tree.immovable.len() == 1 {
        return Err(failure);
    }
    let found = tree.immovable.len();
    Err(Failure::new(format!("{found} entries of the working tree cannot be moved")).because(failure))
}

fn and_more(count: usize) -> String {
    if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() }
}

/// Refuses a host without a remote.
///
/// # Errors
/// No remote is configured.
pub fn remote(on: &Installation) -> Outcome<()> {
    if on.settings.remote.url.is_some() || on.offline.is_some() {
        return Ok(());
    }
    let ignored = trust::ignored(&on.layout).map(|ignored| format!("; {ignored}")).unwrap_or_default();
    Err(Failure::new(format!("no remote is set{ignored}; it is never taken from app/.git"))
        .hint(format!("set `url` under [remote] in {}", on.layout.host_file().display())))
}

/// Refuses to replace an environment that sees the packages of the system by one that does not, unless the host sets
/// this. An application that imports packages of the system would not start.
///
/// # Errors
/// The host does not set it.
pub fn system_packages(on: &Installation) -> Outcome<()> {
    if on.settings.python.system_site_packages.is_some() {
        return Ok(());
    }
    let Some(place) = on.environments().sees_system_packages() else { return Ok(()) };
    let file = on.layout.host_file();
    Err(Failure::new(format!(
        "{} was made with --system-site-packages: it sees the Python packages of the system, and a new environment would not",
        place.display()
    ))
    .hint(format!("add `system_site_packages = true` under [python] in {}", quoted_path(&file)))
    .hint("or `false`, if the application imports none of them"))
}

/// Refuses a probe that cannot be sent, or whose port belongs to another process than the service.
///
/// # Errors
/// The probe has no address, or another process has its port.
pub fn probe(on: &Installation, service: &ServiceState) -> Outcome<()> {
    let number = on.port()?;
    let env_file = on.env_file()?;
    probe::check_host(&probe::resolve(&on.settings.probe, &env_file, None)?)?;
    // Without a unit, any process of the application counts as a stranger; the check of the unit reports it.
    if matches!(service, ServiceState::NotInstalled { .. }) {
        return Ok(());
    }
    let sockets = on.service.sockets()?;
    for socket in &sockets {
        socket.check_own(on.settings.service.unit.as_str(), number)?;
    }
    let is_down = service.is_down();
    let page = on.service.page_process()?;
    let is_page = |process: ProcessId| page == Some(process);
    let is_ours = |process: ProcessId| {
        // Any process of a running service may listen. If the processes cannot be read, no process counts as a
        // stranger.
        is_page(process)
            || !sockets.is_empty() && process.pid == 1
            || !is_down && on.service.owns(process).unwrap_or(true)
    };
    let holder = if is_down && sockets.is_empty() {
        port::holder_but(number, |holder| holder.process.is_some_and(is_page))?
    } else {
        port::stranger(number, is_ours)?
    };
    let Some(holder) = holder else { return Ok(()) };
    let failure = port_holder::held(number, &holder);
    // Another program may have the port rightly, for instance a proxy before the service.
    let Some(own) = listens_elsewhere(on, is_down) else { return Err(failure) };
    let first = Failure::new(failure.summary()).hint(format!(
        "the running service listens on port {own}: correct {} in {}",
        probe::PORT,
        quoted_path(&on.layout.env_file())
    ));
    Err(failure.hints().into_iter().fold(first, Failure::hint))
}

/// Returns the port on which the running service listens, if it has exactly one.
fn listens_elsewhere(on: &Installation, is_down: bool) -> Option<u16> {
    let processes = on.service.processes().ok().filter(|_| !is_down)?;
    only_port(&port::addresses_of(&processes).ok()?)
}

/// Returns the port of all TCP addresses; `None` if they have several, for instance one for metrics.
fn only_port(addresses: &[Address]) -> Option<u16> {
    let mut ports = addresses.iter().filter_map(|address| match address {
        Address::Tcp(address) => Some(address.port()),
        Address::Unix(_) => None,
    });
    let first = ports.next()?;
    ports.all(|port| port == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_the_embedded_supervisor_is_refused_if_systemd_runs_the_service() {
        let (file, address) = (Path::new("/etc/ladylinux/refresh.toml"), Some(IpAddr::from([127, 0, 0, 1])));
        no_socket_beside_units(None, true, file).unwrap();
        no_socket_beside_units(address, false, file).unwrap();
        let failure = no_socket_beside_units(address, true, file).unwrap_err();
        assert!(failure.summary().ends_with("its sockets are socket units"), "{failure}");
        assert_eq!(failure.hint_texts().last().unwrap(), "ladylinux-refresh init --socket");
    }

    #[test]
    fn a_store_from_which_nothing_may_be_executed_is_refused_with_the_command_for_its_mount() {
        let (store, point) = (Path::new("/srv/store"), Path::new("/srv"));
        refuse_noexec(store, StatVfsMountFlags::NODEV, point).unwrap();
        let flags = StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
        let failure = refuse_noexec(store, flags, point).unwrap_err();
        assert_eq!(failure.hint_texts(), ["mount -o remount,exec /srv"]);
    }

    #[test]
    fn the_port_of_a_service_is_named_only_if_it_has_exactly_one() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let unix = Address::Unix("/run/x".to_owned());
        assert_eq!(only_port(&[tcp("0.0.0.0:8000"), tcp("[::]:8000"), unix.clone()]), Some(8000));
        assert_eq!(only_port(&[tcp("127.0.0.1:7000"), tcp("0.0.0.0:8000")]), None);
        assert_eq!(only_port(&[unix]), None);
    }

    #[test]
    fn a_unit_that_runs_something_of_the_application_as_root_is_refused_unless_the_host_names_it() {
        let found = ["/a/one", "/a/two"].map(|path| RootExec {
            key: "ExecStartPre".to_owned(),
            path: path.to_owned(),
            why: "ExecStartPre= begins with \"+\"".to_owned(),
        });
        let refused = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|it| (*it).to_owned()).collect();
            refuse_root_execs("x.service", &found, &allowed)
        };
        let failure = refused(&["/a/one"]).unwrap_err();
        assert_eq!(failure.summary(), "x.service runs /a/two as root: ExecStartPre= begins with \"+\"");
        assert_eq!(failure.hint_texts()[0], "systemctl edit --full x.service");
        assert!(refused(&["/a/o", "/a/two "]).is_err());
        refused(&["/a/one", "/a/two"]).unwrap();
    }
}
