//! The unit of systemd that contains a run. The module reads the control groups of this process.

use refresh_settings::names::{RunId, UnitName};

/// Returns the name of the unit that contains a run.
pub fn unit_of(run: &RunId) -> String {
    format!("ladylinux-refresh-{run}.service")
}

/// Returns whether this process is in the control group of `unit`, and would be ended with it.
pub fn is_inside(unit: &UnitName) -> bool {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    is_in_group_of(&text, unit)
}

fn is_in_group_of(cgroups: &str, unit: &UnitName) -> bool {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|part| part == unit.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_from_its_control_group_on_every_kind_of_host() {
        let unit = UnitName::parse("ladylinux-api.service").unwrap();
        for inside in [
            "0::/system.slice/ladylinux-api.service\n",
            "12:pids:/payload/system.slice/ladylinux-api.service\n0::/\n",
            "1:name=systemd:/system.slice/ladylinux-api.service/worker\n",
        ] {
            assert!(is_in_group_of(inside, &unit), "{inside}");
        }
        for outside in ["", "0::/system.slice/ssh.service\n", "0::/ladylinux-api.service.d\n"] {
            assert!(!is_in_group_of(outside, &unit), "{outside}");
        }
    }
}
