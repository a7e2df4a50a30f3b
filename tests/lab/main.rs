//! Promises that need systemd, other users, a boot or a power cut, on machines of the lab.
#![allow(clippy::too_many_lines, reason = "a table of cases is read as one")]

#[path = "../support/dice.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod dice;
#[path = "../support/lab/mod.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod lab;
#[path = "../support/port.rs"]
mod port;
#[path = "../support/service.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod service;
#[path = "../support/site.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod site;

mod adoption;
mod apt;
mod asked_to_stop;
mod attacker;
mod awkward_units;
mod before_stop;
mod doctor;
mod environment;
mod failures;
mod gunicorn;
mod health_check;
mod in_the_way;
mod init;
mod machine;
mod migration;
mod page;
mod power_cut;
mod real_shape;
mod refresh;
mod server;
mod service_systemd;
mod socket;
mod socket_host;
mod socket_kills;
mod socket_load;
mod survive;
mod tied_units;
mod units;
