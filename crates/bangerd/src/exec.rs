//! From what a user asks to run to what the guest is told: the user's wishes before the image's.

use banger_api::types;
use banger_image::ImageConfig;
use banger_link::{Command, Tool, Window};
use banger_model::{ArgsError, EnvVar, Limits};
use thiserror::Error;

use crate::link::Program;

/// Why a command cannot be run anywhere.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum BadCommand {
    /// What no Linux takes.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// Not `NAME=VALUE`.
    #[error("{0:?} is not an environment variable: write NAME=VALUE")]
    Variable(String),
    /// Neither user nor image says what to run.
    #[error("the image has neither a command nor a shell; say what to run behind `--`")]
    Nothing,
    /// An empty option.
    #[error("the {0} is empty")]
    Empty(&'static str),
}

/// Commands of images whose only purpose is to be the first process.
const INITS: [&[u8]; 4] =
    [b"/sbin/init", b"/usr/sbin/init", b"/lib/systemd/systemd", b"/usr/lib/systemd/systemd"];

/// The signals by their numbers, from 1 on (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What the guest is told to run.
///
/// # Errors
/// [`BadCommand`].
pub(crate) fn program(
    wanted: types::StartProcess,
    image: &ImageConfig,
) -> Result<Program, BadCommand> {
    Ok(match wanted {
        types::StartProcess::Command(wanted) => Program::Command(command(wanted, image)?),
        types::StartProcess::Pack { path } => Program::Tool(Tool::Pack { path: path.0 }),
        types::StartProcess::Unpack { path, name } => {
            Program::Tool(Tool::Unpack { path: path.0, name: name.map(|name| name.0) })
        }
    })
}

/// The number of the signal that the image's own command is to end with, where the image names one
/// that it knows. Those of real time are for inits, which are asked otherwise.
pub(crate) fn stop_signal(wanted: &types::StartProcess, image: &ImageConfig) -> Option<u8> {
    let types::StartProcess::Command(types::Command { main: Some(_), .. }) = wanted else {
        return None;
    };
    let text = image.stop_signal.as_deref()?;
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let at = match name.parse::<usize>() {
        Ok(number) => number.checked_sub(1).filter(|at| *at < SIGNALS.len())?,
        Err(_) => SIGNALS.iter().position(|known| *known == name)?,
    };
    u8::try_from(at + 1).ok()
}

fn command(wanted: types::Command, image: &ImageConfig) -> Result<Command, BadCommand> {
    let own = |text: &String| text.clone().into_bytes();
    for (what, value) in [("user", &wanted.user), ("working directory", &wanted.cwd)] {
        if value.as_ref().is_some_and(|value| value.0.is_empty()) {
            return Err(BadCommand::Empty(what));
        }
    }
    let argv = argv(wanted.argv, wanted.main, image);
    if argv.is_empty() {
        return Err(BadCommand::Nothing);
    }
    Limits::check_args(argv.iter().map(Vec::as_slice))?;
    let mut env: Vec<EnvVar> = Vec::new();
    let images = image.env.iter().map(|(name, value)| format!("{name}={value}"));
    let images = images.filter_map(|var| EnvVar::parse(var.as_bytes()).ok());
    let wanted_env = wanted.env.iter().map(|var| {
        let bad = |_| BadCommand::Variable(String::from_utf8_lossy(&var.0).into_owned());
        EnvVar::parse(&var.0).map_err(bad)
    });
    for var in images.map(Ok).chain(wanted_env) {
        let var = var?;
        env.retain(|old| old.name() != var.name());
        env.push(var);
    }
    let cwd = wanted.cwd.map(|dir| dir.0).or_else(|| {
        // Another user may not enter the directory that the image means for its own.
        let own_dir = Some(&image.workdir).filter(|dir| !dir.is_empty());
        wanted.user.is_none().then_some(own_dir)?.map(own)
    });
    let images = Some(&image.user).filter(|user| !user.is_empty());
    let user = wanted.user.map(|user| user.0).or_else(|| images.map(own));
    let terminal = wanted.terminal.map(window);
    Ok(Command { argv, env, cwd, user, terminal })
}

/// What is run with which arguments; an image's own command stands where the user names none.
fn argv(
    wanted: Vec<types::Text>,
    main: Option<types::MainCommand>,
    image: &ImageConfig,
) -> Vec<Vec<u8>> {
    let bytes = |texts: Vec<types::Text>| texts.into_iter().map(|text| text.0);
    let own = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect();
    let argv: Vec<_> = match main {
        None => bytes(wanted).collect(),
        Some(types::MainCommand { entrypoint: Some(entrypoint) }) => {
            bytes(entrypoint).chain(bytes(wanted)).collect()
        }
        Some(types::MainCommand { entrypoint: None }) => {
            let mut argv: Vec<_> = own(&image.entrypoint);
            match wanted.is_empty() {
                true => argv.extend::<Vec<_>>(own(&image.cmd)),
                false => argv.extend(bytes(wanted)),
            }
            argv
        }
    };
    match argv.as_slice() {
        [] => own(&image.shell),
        // It is the first process already, or never could be.
        [init] if INITS.contains(&init.as_slice()) => own(&image.shell),
        _ => argv,
    }
}

/// A terminal's size as the guest is told.
pub(crate) fn window(window: types::Window) -> Window {
    Window { rows: window.rows, cols: window.cols }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::types::Text;

    fn image() -> ImageConfig {
        ImageConfig {
            env: [("LANG".to_owned(), "C.UTF-8".to_owned())].into(),
            user: "root".to_owned(),
            workdir: "/root".to_owned(),
            shell: vec!["/bin/bash".to_owned(), "-l".to_owned()],
            ..ImageConfig::default()
        }
    }

    fn run(wanted: types::Command) -> Result<Command, BadCommand> {
        command(wanted, &image())
    }

    #[test]
    fn what_is_left_out_the_image_says() {
        let command = run(types::Command::default()).unwrap();
        assert_eq!(command.argv, [&b"/bin/bash"[..], b"-l"]);
        assert_eq!(command.cwd.as_deref(), Some(&b"/root"[..]));
        assert_eq!(command.user.as_deref(), Some(&b"root"[..]));
        assert_eq!(command.env.len(), 1);
    }

    #[test]
    fn a_stop_signal_is_for_the_main_command() {
        let asks = |main, signal: &str| {
            let image = ImageConfig { stop_signal: Some(signal.to_owned()), ..image() };
            let wanted = types::Command { main, ..types::Command::default() };
            stop_signal(&types::StartProcess::Command(wanted), &image)
        };
        let main = || Some(types::MainCommand { entrypoint: None });
        for (text, number) in [("SIGQUIT", 3), ("WINCH", 28), ("15", 15), ("SIGSYS", 31)] {
            assert_eq!(asks(main(), text), Some(number), "{text}");
            assert_eq!(asks(None, text), None, "{text}");
        }
        for bad in ["", "SIG", "0", "32", "SIGRTMIN+3", "quit", "-1"] {
            assert_eq!(asks(main(), bad), None, "{bad}");
        }
    }

    #[test]
    fn a_main_command_is_put_together_as_docker_does() {
        let own = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let main = |images: (&str, &str), entrypoint: Option<&str>, argv: &str| {
            let texts = |words: &str| words.split_whitespace().map(Text::from).collect::<Vec<_>>();
            let image = ImageConfig { entrypoint: own(images.0), cmd: own(images.1), ..image() };
            let main = types::MainCommand { entrypoint: entrypoint.map(texts) };
            let wanted =
                types::Command { argv: texts(argv), main: Some(main), ..Default::default() };
            let argv = command(wanted, &image).unwrap().argv;
            String::from_utf8(argv.join(&b' ')).unwrap()
        };
        assert_eq!(main(("", ""), None, ""), "/bin/bash -l");
        assert_eq!(main(("", "sh"), None, ""), "sh");
        assert_eq!(main(("", "sh"), None, "ls -l"), "ls -l");
        assert_eq!(main(("entry", "serve"), None, ""), "entry serve");
        assert_eq!(main(("entry", "serve"), None, "a"), "entry a");
        assert_eq!(main(("entry", "serve"), Some("own x"), ""), "own x");
        assert_eq!(main(("entry", "serve"), Some("own"), "a"), "own a");
        assert_eq!(main(("entry", "serve"), Some(""), "a"), "a");
        assert_eq!(main(("", "/sbin/init"), None, ""), "/bin/bash -l");
        assert_eq!(main(("", "/sbin/init"), None, "ls"), "ls");
        let exec = types::Command { argv: vec!["ls".into()], ..Default::default() };
        let image = ImageConfig { entrypoint: own("entry"), ..image() };
        assert_eq!(command(exec, &image).unwrap().argv, [b"ls"], "not what is run beside it");
        let nothing = command(types::Command::default(), &ImageConfig::default());
        assert_eq!(nothing, Err(BadCommand::Nothing));
    }

    #[test]
    fn an_image_that_says_nothing_leaves_it_to_the_guest() {
        let wanted = types::Command { argv: vec!["ls".into()], ..Default::default() };
        let command = command(wanted, &ImageConfig::default()).unwrap();
        assert_eq!((command.cwd, command.user), (None, None));
    }

    #[test]
    fn the_users_wishes_go_before() {
        let wanted = types::Command {
            argv: vec!["ls".into()],
            env: vec!["LANG=de".into(), "A=1".into(), "A=2".into()],
            user: Some("1000".into()),
            ..Default::default()
        };
        let command = run(wanted).unwrap();
        assert_eq!(command.cwd, None, "the image's directory is not another user's");
        let values: Vec<_> = command.env.iter().map(|var| (var.name(), var.value())).collect();
        assert_eq!(values, [(&b"LANG"[..], &b"de"[..]), (b"A", b"2")]);
    }

    #[test]
    fn what_no_linux_takes_is_refused() {
        let argv = |args: Vec<Text>| run(types::Command { argv: args, ..Default::default() });
        assert_eq!(argv(vec!["".into()]), Err(ArgsError::NoName.into()));
        let long = Text(vec![b'x'; Limits::MAX_ARG_LEN]);
        assert_eq!(argv(vec!["ls".into(), long]), Err(ArgsError::TooLong.into()));
        let env = types::Command { env: vec!["=x".into()], ..Default::default() };
        assert!(matches!(run(env), Err(BadCommand::Variable(_))));
        let user = types::Command { user: Some("".into()), ..Default::default() };
        assert_eq!(run(user), Err(BadCommand::Empty("user")));
    }
}
