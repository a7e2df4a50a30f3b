//! Closed streams, standard input, and the terminal of the caller.

use std::fs::{self};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Hold, end, last_report, reconfigure, send, start};
use crate::git::{Web, serve_web};
use crate::host::{Host, Ran, ran};
use rustix::process::Signal;

#[test]
fn neither_a_hang_up_nor_a_closed_stream_changes_a_run() {
    let host = Host::running();
    let pipe = Hold::new(&host);
    host.configure("", &pipe.hook("migration"));
    let mut run = start(&host, &["run"]);
    let held = pipe.reached(&mut run);
    send(&run, Signal::HUP);
    send(&run, Signal::HUP);
    drop(held);
    assert_eq!(last_report(&end(run).expect(0))["result"], "refreshed");

    // The reader closes the stream during the run.
    let mut run = start(&host, &["run"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"phase_started\",\"phase\":\"prepare\"")));
    let held = pipe.reached(&mut run);
    drop((lines, run.stderr.take()));
    drop(held);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    pipe.lift();

    // There was no reader, in any format, on either stream; or the disk behind it is full.
    let noisy =
        "[[hook]]\nname = \"noisy\"\nkind = \"index\"\ncommand = [\"sh\", \"-c\", \"cat; seq 2000\"]\n";
    host.configure("", noisy);
    for (version, streams, format) in [
        ("a", ">&- 2>&- <&-", "human"),
        ("b", "> /dev/full 2> /dev/full", "json"),
        ("c", "| true", "github"),
        ("d", "2>&1 | true", "human"),
        ("e", "| true", "json"),
    ] {
        host.push(&[("version.txt", version)]);
        let code = host.beside("code");
        let script = format!("{{ \"$@\"; echo $? > {}; }} {streams}", code.display());
        let inner = host.command(["run", "--format", format]);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(command.stdin(Stdio::null()).status().is_ok());
        assert_eq!(fs::read_to_string(&code).unwrap(), "0\n", "{streams} {format}");
        assert_eq!(host.version().as_deref(), Some(version), "{streams} {format}");
        assert_eq!(host.report()["result"], "refreshed");
    }
    // A refusal keeps its code as well.
    let mut command = host.command(["run", "nowhere"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(3));
}

#[test]
fn rw_8_1_no_question_is_printed_and_standard_input_is_never_read() {
    let host = Host::running();
    // A hook that reads gets an end of input at once; the content of the caller's pipe stays there.
    host.configure("", "[[hook]]\nname = \"reads\"\nkind = \"index\"\ncommand = [\"cat\"]\n");
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"kept").unwrap();
    let mut command = host.command(["run"]);
    let printed = ran(command.stdin(reader.try_clone().unwrap()).output().unwrap()).expect(0);
    assert!(printed.out.contains("1 hook: reads"), "{}", printed.out);
    drop((command, writer));
    let mut rest = String::new();
    (&reader).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "kept");

    // A remote that requires credentials is refused: with a terminal and without one.
    let credentials = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let port = serve_web(Web::Protected { base: host.beside("srv"), credentials });
    reconfigure(&host, &host.url(), &format!("http://127.0.0.1:{port}/app.git"));
    let text = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"http\"]")).unwrap();
    let inner = host.command(["run"]);
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let on_terminal = format!("script --quiet --return --command '{}' /dev/null", words.join(" "));
    for line in [on_terminal, format!("setsid --wait {}", words.join(" "))] {
        let mut command = Command::new("sh");
        command.args(["-c", &line]).env_clear().env("SHELL", "/bin/sh").env("TERM", "xterm");
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let printed = ran(command.stdin(Stdio::null()).output().unwrap()).expect(3);
        assert!(printed.all().contains("refused the credentials"), "{}", printed.all());
    }
    assert_eq!(host.version().as_deref(), Some("one"));
}

/// The processes below a program on a terminal: command line and controlling terminal (0: none).
type Seen = std::collections::BTreeSet<(String, i32)>;

/// Runs the program with a pseudo terminal as its controlling terminal, and collects all descendants that it has
/// meanwhile.
fn on_a_terminal(host: &Host, arguments: &[&str]) -> (Ran, Seen) {
    let inner = host.command(arguments);
    let words: Vec<&str> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| word.to_str().unwrap())
        .collect();
    let mut command = Command::new("script");
    // The program also gets a descriptor of the terminal, which it did not open.
    let line = format!("exec {} 7<>/dev/tty", words.join(" "));
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env_clear().env("SHELL", "/bin/sh").env("TERM", "xterm");
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = run.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let mut seen = Seen::new();
    while run.try_wait().unwrap().is_none() {
        collect_descendants(&words.join(" "), &mut seen);
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut printed = ran(run.wait_with_output().unwrap());
    printed.out = reader.join().unwrap().unwrap();
    (printed, seen)
}

/// Adds the descendants of the program with the command line `own`, which must have a terminal itself.
fn collect_descendants(own: &str, seen: &mut Seen) {
    // The command line is read first: a child that still has that of the program has not executed its own yet.
    let processes: std::collections::BTreeMap<i32, (String, i32, i32)> =
        refresh_programs::process::identity::all_pids()
            .into_iter()
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
                Some((pid, (line, fields.get(1)?.parse().ok()?, fields.get(4)?.parse().ok()?)))
            })
            .collect();
    for (line, parent, terminal) in processes.values().filter(|(line, ..)| line != own) {
        let mut above = Some(*parent);
        while let Some((line_above, parent_above, terminal_above)) = above.and_then(|pid| processes.get(&pid))
        {
            if line_above == own {
                assert_ne!(*terminal_above, 0, "the program has no terminal, so the test shows nothing");
                seen.insert((line.clone(), *terminal));
                break;
            }
            above = Some(*parent_above);
        }
    }
}

#[test]
fn no_child_has_the_terminal_of_the_program() {
    let host = Host::running();
    let script = "read line < /proc/self/stat; set -- $line; echo terminal number $7; \
                  ls -l /proc/self/fd; (: < /dev/tty) 2>&1 || :";
    let hook = format!(
        "[[hook]]\nname = \"looks\"\nkind = \"migration\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
    );
    host.push(&[("refresh.toml", &hook), ("version.txt", "two")]);
    for arguments in [&["status"][..], &["plan"], &["run", "--verbose"], &["service", "start"]] {
        // A child that lives for a moment only is not always found.
        let met = (0..20).find_map(|_| {
            if arguments[0] == "service" {
                host.tool(["service", "stop"]).expect(0);
            }
            let (printed, seen) = on_a_terminal(&host, arguments);
            let printed = printed.expect(0);
            (!seen.is_empty()).then_some((printed, seen))
        });
        let Some((printed, seen)) = met else { panic!("{arguments:?}: no child was seen") };
        let with_terminal: Vec<_> = seen.iter().filter(|(_, terminal)| *terminal != 0).collect();
        assert!(with_terminal.is_empty(), "{arguments:?}: {with_terminal:#?}");
        if arguments[0] == "run" {
            assert_eq!(host.version().as_deref(), Some("two"));
            assert!(printed.out.contains("terminal number 0"), "{}", printed.out);
            assert!(printed.out.contains("/dev/tty: No such device or address"), "{}", printed.out);
            assert!(printed.out.contains("-> /dev/null"), "{}", printed.out);
            for terminal in ["-> /dev/pts/", "-> /dev/tty"] {
                assert!(!printed.out.contains(terminal), "{}", printed.out);
            }
        }
    }
}
