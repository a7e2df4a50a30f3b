//! Promises of the program and of its crates that need files, git, uv or a service, but no machine of the lab.
#![allow(clippy::too_many_lines, reason = "a table of cases is read as one")]

#[path = "../support/clients.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod clients;
#[path = "../support/dice.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod dice;
#[path = "../support/git.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod git;
#[path = "../support/host.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod host;
#[path = "../support/index.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod index;
#[path = "../support/port.rs"]
mod port;
#[path = "../support/python.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod python;
#[path = "../support/schema.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod schema;
#[path = "../support/service.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod service;
#[path = "../support/source.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod source;
#[path = "../support/tls.rs"]
mod tls;

mod bad_definitions;
mod bad_input;
mod bundle;
mod cli;
mod commands_page;
mod config;
mod conformance;
mod doctor;
mod doctor_notes;
mod documents;
mod environment_build;
mod environment_contamination;
mod fastapi;
mod git_mirror;
mod git_mirror_files_of_others;
mod json_errors;
mod ladylinux_requirements;
mod models;
mod output;
mod python_environment;
mod python_lock;
mod python_proof;
mod refresh;
mod refresh_vm_script;
mod relay;
mod replay;
mod screens;
mod secrets;
mod service_commands;
mod service_contract;
mod service_probe;
mod signals;
mod source_stash;
mod source_trees;
mod source_work_tree;
mod units;
mod uv_contract;
