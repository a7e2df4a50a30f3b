//! `verify`: checks whether the models and the environments are unchanged and complete. The first line is the verdict.

mod environment;
mod models;

use serde_json::json;

use crate::cli::{VerifyArgs, VerifyPart};
use crate::report::json;
use refresh_host::host::presence::check_anything;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_settings::layout::Layout;
use refresh_system::error::Failure;
use refresh_system::screen::{Tone, paint, print_line, print_lines};

/// Verifies the parts that the command line names.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Success, Error> {
    if let Some(conflict) = args.conflict() {
        return Err(Error::Usage(Failure::new(conflict).command("ladylinux-refresh verify --help", &[])));
    }
    // Models can exist without an installation; a place without any part of one counts as not verified.
    if args.store.is_empty() {
        check_anything(layout).map_err(|failure| Refusal::of("verify", failure))?;
    }
    let part = args.part();
    let models = (part != VerifyPart::Environment).then(|| models::verify(layout, args)).transpose()?;
    let all = if args.all { environment::Which::All } else { environment::Which::Live };
    let environment = (part != VerifyPart::Models).then(|| environment::verify(layout, all)).transpose()?;
    let models_ok = models.as_ref().is_none_or(models::Checked::is_ok);
    let environment_ok = environment.as_ref().is_none_or(environment::Checked::is_ok);
    match (models, environment) {
        (Some(models), Some(environment)) if args.json => {
            let (ok, models, environment) = (models_ok && environment_ok, models.json(), environment.json());
            print_line(&json::pretty(
                &json!({"schema": 2, "ok": ok, "models": models, "environment": environment}),
            ));
        }
        (Some(models), Some(environment)) => {
            print_line(&verdict_of_both(models_ok, environment_ok, environment.is_compared()));
            print_lines(&models.lines(args.verbose));
            print_lines(&environment.lines());
        }
        (Some(models), None) if args.json => print_line(&json::pretty(&models.json())),
        (Some(models), None) => print_lines(&models.lines(args.verbose)),
        (None, Some(environment)) if args.json => print_line(&json::pretty(&environment.json())),
        (None, Some(environment)) => print_lines(&environment.lines()),
        (None, None) => {}
    }
    Ok(if models_ok && environment_ok { Success::Done } else { Success::Findings })
}

fn verdict_of_both(models_ok: bool, environment_ok: bool, is_compared: bool) -> String {
    match (models_ok, environment_ok) {
        (true, true) if !is_compared => {
            paint(Tone::Warning, "Models: good; the environment is from before the tool and not compared")
        }
        (true, true) => paint(Tone::Good, "Good: models and environment are as they should be"),
        (false, true) => paint(Tone::Bad, "Problems: models"),
        (true, false) => paint(Tone::Bad, "Problems: environment"),
        (false, false) => paint(Tone::Bad, "Problems: models and environment"),
    }
}
