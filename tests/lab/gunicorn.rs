//! Real gunicorn, whose processes rename themselves and overwrite their environment.

use crate::lab;

use lab::{Lab, Machine, UNIT, until};

/// The host's settings.
const SETTINGS: &str = "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
    [probe]\nurl = \"http://127.0.0.1:8000/\"\ndeadline = \"60s\"\nsettle = \"300ms\"\n";

/// A WSGI application that answers with its version.
const WSGI: &str = "import pathlib\n\
    def app(environ, start_response):\n\
    \x20   body = pathlib.Path('version.txt').read_bytes()\n\
    \x20   start_response('200 OK', [('Content-Length', str(len(body)))])\n\
    \x20   return [body]\n";

#[test]
fn rw_5_5_gunicorn_that_renames_its_processes_is_recognized_as_the_new_service() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "gunicorn", |machine| {
        let unit = UNIT
            .replace("bin/python server.py", "bin/gunicorn --bind 127.0.0.1:8000 --workers 2 server:app")
            .replace("Type=simple", "Type=notify");
        let requirements = "gunicorn==23.0.0\nsetproctitle==1.3.7\n";
        machine.prepare_small_host(&[("server.py", WSGI), ("requirements.txt", requirements)], &unit);
        machine.write("/etc/ladylinux/refresh.toml", SETTINGS);
        machine.refresh("init").expect(0);
        machine.refresh("run").expect(0).prints("Refreshed");
    });
    until("the service", || machine.version());
    machine.exec("pgrep --full '^gunicorn: master'").expect(0);
    let pid = machine.exec("systemctl show --value --property MainPID ladylinux-api").expect(0).out;
    let variables = machine.exec(&format!("tr '\\0' '\\n' </proc/{}/environ", pid.trim())).out;
    assert!(!variables.contains("LADYLINUX"), "setproctitle has overwritten them: {variables}");
    machine.push_version("two");
    machine.refresh("run").expect(0).prints("HTTP 200");
    assert_eq!(machine.version().as_deref(), Some("two"));
    machine.refresh("run --if-changed").expect(0).prints("Already current");
    machine.refresh("rollback").expect(0);
    assert_eq!(machine.version().as_deref(), Some("one"));
}
