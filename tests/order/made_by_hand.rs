//! A later state is constructed from an earlier one, or a copy is kept.

use refresh_run::refresh::{Planned, Refresh, Running, Stopped};

fn from_an_earlier_one<'a>(planned: Refresh<'a, Planned>) -> Refresh<'a, Running> {
    Refresh { at: Running, ..planned } // E0308
}

fn by_the_programs_own_way<'a>(stopped: Refresh<'a, Stopped>) {
    let _ = stopped.advance(refresh_events::run_report::Phase::Status, |_, _, _| Ok((Running, String::new()))); // E0624
}

fn a_copy<'a>(planned: Refresh<'a, Planned>) -> Refresh<'a, Planned> {
    planned.clone() // E0599
}

fn main() {}
