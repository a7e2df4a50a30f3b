//! The notes of the doctor on the sources of an application.

use crate::host::Host;

#[test]
fn a_call_of_sudo_is_noted_and_a_sudo_mode_of_the_application_is_not() {
    let host = Host::running();
    let mode = "def is_allowed(session):\n    return session['sudo'] == 'active'  # sudo mode\n";
    host.push(&[("decorators.py", mode)]);
    host.tool(["run"]).expect(0);
    let quiet = host.tool(["doctor"]).out;
    assert!(!quiet.contains("calls sudo"), "{quiet}");
    let call = "import subprocess\n\ndef refresh():\n    subprocess.run(['sudo', '-n', 'refresh'])\n";
    host.push(&[("button.py", call)]);
    host.tool(["run"]).expect(0);
    host.tool(["doctor"]).prints("calls sudo or systemd-run in button.py; for a refresh");
}
