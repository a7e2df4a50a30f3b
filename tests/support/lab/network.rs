//! A private network between machines: a namespace with a bridge as its switch, a cable to every machine, names by a
//! hosts file that all of them use.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{Lab, must, sweep};

/// One network. It is removed when its last machine is gone.
#[derive(Debug, Clone)]
pub struct Network(Arc<Switch>);

#[derive(Debug)]
struct Switch {
    lab: Lab,
    /// The name of the namespace and of the directory.
    id: String,
    directory: PathBuf,
    members: Mutex<Vec<String>>,
}

/// The end of a cable in a machine.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    /// The machine's network namespace.
    pub(super) namespace: PathBuf,
    /// The hosts file.
    pub(super) hosts: PathBuf,
    pub(super) network: Network,
}

impl Network {
    /// Creates a network.
    pub fn new(lab: &Lab) -> Self {
        let (id, directory) = lab.place();
        add_namespace(&id);
        ip(&format!("-n {id} link add br0 type bridge"));
        ip(&format!("-n {id} link set br0 up"));
        let network =
            Self(Arc::new(Switch { lab: lab.clone(), id, directory, members: Mutex::new(Vec::new()) }));
        network.write_hosts(&[]);
        network
    }

    /// The lab of the network.
    pub fn lab(&self) -> &Lab {
        &self.0.lab
    }

    /// Cuts a machine off; packets are lost, connections stay open on both sides.
    pub fn partition(&self, name: &str) {
        ip(&format!("-n {} link set {} down", self.0.id, self.cable(name)));
    }

    /// Ends a partition.
    pub fn heal(&self, name: &str) {
        ip(&format!("-n {} link set {} up", self.0.id, self.cable(name)));
    }

    /// Lets a machine receive no faster than so many bytes in a second.
    pub fn slow_down(&self, name: &str, bytes_per_second: u32) {
        let cable = self.cable(name);
        let tail = format!("root tbf rate {bytes_per_second}bps burst 8kb latency 400ms");
        let line = format!("-n {} qdisc replace dev {cable} {tail}", self.0.id);
        must("tc", line.split(' '));
    }

    /// Removes a limit.
    pub fn full_speed(&self, name: &str) {
        let line = format!("-n {} qdisc delete dev {} root", self.0.id, self.cable(name));
        must("tc", line.split(' '));
    }

    /// The address of a machine.
    pub fn address(&self, name: &str) -> String {
        address(self.number(name))
    }

    /// Connects a machine; `id` is the name of its namespace.
    pub(super) fn join(&self, name: &str, id: &str) -> Socket {
        let number = {
            let mut members = self.0.members.lock().unwrap();
            assert!(!members.iter().any(|member| member == name), "there is a machine {name} already");
            members.push(name.to_owned());
            self.write_hosts(&members);
            members.len() - 1
        };
        add_namespace(id);
        let (switch, cable) = (&self.0.id, cable(number));
        ip(&format!("-n {switch} link add {cable} type veth peer name host0 netns {id}"));
        ip(&format!("-n {switch} link set {cable} master br0 up"));
        ip(&format!("-n {id} address add {}/24 dev host0", address(number)));
        ip(&format!("-n {id} link set host0 up"));
        ip(&format!("-n {id} link set lo up"));
        Socket {
            namespace: PathBuf::from("/run/netns").join(id),
            hosts: self.0.directory.join("hosts"),
            network: self.clone(),
        }
    }

    fn cable(&self, name: &str) -> String {
        cable(self.number(name))
    }

    fn number(&self, name: &str) -> usize {
        let members = self.0.members.lock().unwrap();
        members
            .iter()
            .position(|member| member == name)
            .unwrap_or_else(|| panic!("there is no machine {name} on this network"))
    }

    /// Written in place, since the machines have this very file mounted.
    fn write_hosts(&self, members: &[String]) {
        let lines = members.iter().enumerate().map(|(number, name)| format!("{} {name}\n", address(number)));
        let text = "127.0.0.1 localhost\n".to_owned() + &lines.collect::<String>();
        fs::write(self.0.directory.join("hosts"), text).unwrap();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        sweep::everything_named(&self.lab.worlds(), &self.id);
    }
}

fn cable(number: usize) -> String {
    format!("v{number}")
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 1)
}

/// Adds a network namespace. `ip netns add` sets `/run/netns` up at its first call, and does not support two calls at
/// that moment.
fn add_namespace(id: &str) {
    let lock = fs::File::create("/run/ladylinux-refresh-lab.lock").unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    ip(&format!("netns add {id}"));
}

fn ip(line: &str) {
    must("ip", line.split(' '));
}
