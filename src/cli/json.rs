//! Which commands write JSON, and in which form.

use super::{BundleCommand, Command, ConfigCommand, EnvironmentsCommand, Format, ReportArgs};

/// The form of JSON on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonForm {
    /// One value
    Value,
    /// Events, one for each line
    Lines,
}

impl Command {
    /// Returns the form of JSON that the command line requests; `None` for text.
    pub fn json(&self) -> Option<JsonForm> {
        let lines = |report: &ReportArgs| (report.format() == Some(Format::Json)).then_some(JsonForm::Lines);
        let value = |json: bool| json.then_some(JsonForm::Value);
        match self {
            Self::Run(args) if args.dry_run => lines(&args.report).map(|_| JsonForm::Value),
            Self::Run(args) => lines(&args.report),
            Self::Rollback(args) => lines(&args.report),
            Self::Wait(args) => lines(&args.report),
            Self::Plan(args) => value(args.json),
            Self::Status(args) => value(args.json),
            Self::History(args) => value(args.json),
            Self::Doctor(args) => value(args.json),
            Self::Verify(args) => value(args.json),
            Self::Lock(args) => value(args.json),
            Self::Config(ConfigCommand::Show(args)) => value(args.json),
            Self::Config(ConfigCommand::Check(args)) => value(args.json),
            Self::Environments(EnvironmentsCommand::List { json })
            | Self::Bundle(BundleCommand::Show { json, .. }) => value(*json),
            _ => None,
        }
    }
}
