//! What a demo says, and the list of what happened with its times.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::ground::Ground;
use crate::event::{Event, Subscriber};
use crate::report::shell::quoted;

/// Where the story is written: a person's terminal, a log, a test.
type Screen = Arc<Mutex<Box<dyn Write + Send>>>;

/// Writes the story; an output that is closed changes nothing of it.
pub(super) struct Narrator {
    screen: Screen,
    scenes: Vec<Scene>,
}

/// One command of the story, for the list at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scene {
    /// What it showed.
    pub(super) title: String,
    /// The exit code.
    pub(super) code: i32,
    /// How long it took.
    pub(super) took: Duration,
    /// For how long of it the service was down, where it was.
    pub(super) downtime: Option<Duration>,
}

impl Narrator {
    /// Makes a narrator that writes to `screen`.
    pub(super) fn new(screen: Box<dyn Write + Send>) -> Self {
        Self { screen: Arc::new(Mutex::new(screen)), scenes: Vec::new() }
    }

    /// Returns a subscriber that writes down what the commands of the story say.
    pub(super) fn listener(&self) -> Box<dyn Subscriber> {
        Box::new(Listener(Arc::clone(&self.screen)))
    }

    /// Opens a chapter.
    pub(super) fn chapter(&self, title: &str) {
        self.say(format!("\n== {title}"));
    }

    /// Says a line.
    pub(super) fn say(&self, line: impl Display) {
        write_line(&self.screen, "", line);
    }

    /// Shows a command as it is typed.
    pub(super) fn typed(&self, command: &str) {
        self.say(format!("$ {command}"));
    }

    /// Notes a scene for the list and says its times.
    pub(super) fn played(&mut self, scene: Scene) {
        let downtime =
            scene.downtime.map_or(String::new(), |time| format!(", service down {}", readable(time)));
        self.say(format!("-- exit {}, {}{downtime}", scene.code, readable(scene.took)));
        self.scenes.push(scene);
    }

    /// Ends the story: the list, what to try next, and the address of the service as the last line.
    pub(super) fn ending(&self, ground: &Ground, product: &str, url: &str) {
        self.chapter("What happened");
        for line in table(&self.scenes) {
            self.say(line);
        }
        let work = quoted(&ground.at("work").to_string_lossy());
        self.chapter("What to try next");
        self.say("The service and its repository stay. Look around:");
        for command in ["status", "history", "stash list", "plan"] {
            self.say(format!("    {product} {command}"));
        }
        self.say("Change something, push it, refresh:");
        self.say(format!("    cd {work} && $EDITOR templates/page.html"));
        self.say(format!("    git commit -am 'Try it' && git push && {product} run"));
        self.say("End it all, and remove it:");
        self.say(format!("    {}", ground.stop_command()));
        self.say(format!("    rm -r {}", quoted(&ground.folder().to_string_lossy())));
        self.say("\nThe service answers at:");
        self.say(url);
    }

    /// Says what was ended.
    pub(super) fn stopped(&self, ground: &Ground, ended: &[String]) {
        self.say(match ended {
            [] => "the demo is stopped; nothing else of it was running".to_owned(),
            some => format!("the demo is stopped; ended: {}", some.join(", ")),
        });
        self.say(format!("its files are left in {}", ground.folder().display()));
    }
}

struct Listener(Screen);

impl Subscriber for Listener {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Output { line, .. } => write_line(&self.0, "    ", line),
            Event::Note { message, .. } => write_line(&self.0, "    ", message),
            Event::Warning { message, .. } => write_line(&self.0, "    warning: ", message),
            _ => {}
        }
    }
}

fn write_line(screen: &Screen, before: &str, line: impl Display) {
    let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = writeln!(screen, "{before}{line}").and_then(|()| screen.flush());
}

/// Reads from the status file of an installation for how long the service was down in the last run.
pub(super) fn last_downtime(status_file: &Path) -> Option<Duration> {
    let bytes = crate::disk::read_if_there(status_file).ok()??;
    let status: Value = serde_json::from_slice(&bytes).ok()?;
    find_number(&status, "downtime_ms").map(Duration::from_millis)
}

/// Finds the first number of this name, at whatever depth.
fn find_number(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_u64)
            .or_else(|| fields.values().find_map(|field| find_number(field, name))),
        _ => None,
    }
}

fn table(scenes: &[Scene]) -> Vec<String> {
    let head = format!("{:<44} {:>4}  {:>8}  {:>8}", "", "exit", "took", "down");
    let rows = scenes.iter().map(|scene| {
        let downtime = scene.downtime.map_or_else(|| "-".to_owned(), readable);
        format!("{:<44} {:>4}  {:>8}  {downtime:>8}", scene.title, scene.code, readable(scene.took))
    });
    std::iter::once(head).chain(rows).collect()
}

pub(super) fn readable(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_list_tells_code_time_and_downtime_of_each_scene() {
        let scene = |title: &str, code, downtime| Scene {
            title: title.to_owned(),
            code,
            took: Duration::from_millis(2340),
            downtime,
        };
        let scenes = [scene("a refresh", 0, Some(Duration::from_millis(640))), scene("refused", 3, None)];
        let expected = [
            "                                             exit      took      down",
            "a refresh                                       0     2.3 s    640 ms",
            "refused                                         3     2.3 s         -",
        ];
        assert_eq!(table(&scenes), expected);
    }

    #[test]
    fn the_downtime_is_found_wherever_the_status_keeps_it() {
        let status = json!({"schema": 1, "last_run": {"report": {"downtime_ms": 812}}});
        assert_eq!(find_number(&status, "downtime_ms"), Some(812));
        assert_eq!(find_number(&json!({"downtime_ms": null}), "downtime_ms"), None);
    }
}
