//! From a command as it was asked for to what `execve` takes, as far as no system call is needed.

use std::ffi::{CStr, CString};

use banger_link::{Command, Refusal, Tool};

use crate::tool;
use crate::users::User;

/// Where programs are searched when the command has no `PATH` of its own: what container
/// engines and Debian's root shell have.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most directories of a `PATH` that are searched.
const MAX_PATH_DIRS: usize = 256;

/// Most arguments, and most variables, of one command. Linux counts only their bytes; this
/// bounds what the agent makes of them.
const MAX_STRINGS: usize = 256 * 1024;

/// What runs a file that the kernel cannot execute, as in execvp(3).
const SHELL: &[u8] = b"/bin/sh";

/// This program. It lies in the initramfs, where no path leads any more, and the kernel still
/// finds it by this link, which is a door and no name.
const OWN_PROGRAM: &CStr = c"/proc/self/exe";

/// What a tool is called where its program is said.
pub(crate) const TOOL_NAME: &str = "banger-agent";

/// A command ready to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The name it was asked for by.
    pub(crate) name: String,
    /// Paths to try, in this order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// Directories to try as the working directory, in this order.
    pub(crate) dirs: Vec<CString>,
}

impl Program {
    /// What a command means for a user.
    ///
    /// # Errors
    /// [`Refusal::Failed`] for a command that no program could be given, [`Refusal::NotFound`]
    /// for one without a name.
    pub(crate) fn new(command: &Command, user: &User) -> Result<Self, Refusal> {
        let Some(name) = command.argv.first().filter(|name| !name.is_empty()) else {
            return Err(Refusal::NotFound(String::new()));
        };
        if command.argv.len() > MAX_STRINGS || command.env.len() > MAX_STRINGS {
            return Err(Refusal::Failed(format!(
                "the command has more than {MAX_STRINGS} arguments or variables"
            )));
        }
        let env = environment(command, user);
        let dirs = match &command.cwd {
            Some(dir) => vec![c_string(dir)?],
            None => vec![c_string(&user.home)?, c"/".to_owned()],
        };
        Ok(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            candidates: candidates(name, value_of(&env, b"PATH"))?,
            argv: command.argv.iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?,
            env: env.iter().map(|var| c_string(var)).collect::<Result<_, _>>()?,
            dirs,
        })
    }

    /// This program as one of its tools.
    ///
    /// # Errors
    /// [`Refusal::Failed`] for a path that no program could be given.
    pub(crate) fn of_tool(tool: &Tool) -> Result<Self, Refusal> {
        let argv = tool::arguments(tool);
        Ok(Self {
            name: TOOL_NAME.to_owned(),
            candidates: vec![OWN_PROGRAM.to_owned()],
            argv: argv.iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?,
            env: Vec::new(),
            dirs: vec![c"/".to_owned()],
        })
    }

    /// The same command by way of the shell, for a script that does not name its interpreter.
    pub(crate) fn by_shell(mut self, script: usize) -> Self {
        let shell = CString::new(SHELL).unwrap_or_default();
        let path = self.candidates.swap_remove(script.min(self.candidates.len() - 1));
        self.argv.splice(..1, [shell.clone(), path]);
        self.candidates = vec![shell];
        self
    }
}

/// The environment: what was asked for, and what no program expects to miss.
fn environment(command: &Command, user: &User) -> Vec<Vec<u8>> {
    let mut env: Vec<Vec<u8>> =
        command.env.iter().map(|var| [var.name(), b"=", var.value()].concat()).collect();
    let defaults = [
        (&b"PATH"[..], Some(DEFAULT_PATH)),
        (b"HOME", Some(&user.home)),
        (b"SHELL", Some(&user.shell)),
        (b"USER", user.name.as_deref()),
        (b"LOGNAME", user.name.as_deref()),
    ];
    for (name, value) in defaults {
        if let Some(value) = value.filter(|_| value_of(&env, name).is_none()) {
            env.push([name, b"=", value].concat());
        }
    }
    env
}

fn value_of<'a>(env: &'a [Vec<u8>], name: &[u8]) -> Option<&'a [u8]> {
    env.iter().find_map(|var| var.strip_prefix(name)?.strip_prefix(b"="))
}

/// The paths that a name may mean. One with a slash means itself; an empty part of `PATH` is
/// the working directory.
fn candidates(name: &[u8], path: Option<&[u8]>) -> Result<Vec<CString>, Refusal> {
    if name.contains(&b'/') {
        return Ok(vec![c_string(name)?]);
    }
    let dirs = path.unwrap_or(DEFAULT_PATH).split(|b| *b == b':').take(MAX_PATH_DIRS);
    dirs.map(|dir| match dir {
        [] => c_string(&[b"./", name].concat()),
        dir => c_string(&[dir, b"/", name].concat()),
    })
    .collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| {
        let text = String::from_utf8_lossy(bytes);
        Refusal::Failed(format!("no program can be given a zero byte, as in {text:.80?}"))
    })
}

#[cfg(test)]
mod tests {
    use banger_model::EnvVar;

    use super::*;
    use crate::users::Accounts;

    fn command(argv: &[&str], env: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: env.iter().map(|var| EnvVar::parse(var.as_bytes()).unwrap()).collect(),
            cwd: None,
            user: None,
            terminal: None,
        }
    }

    fn program(argv: &[&str], env: &[&str]) -> Result<Program, Refusal> {
        Program::new(&command(argv, env), &Accounts::default().resolve(None).unwrap())
    }

    fn text(strings: &[CString]) -> Vec<&str> {
        strings.iter().map(|s| s.to_str().unwrap()).collect()
    }

    #[test]
    fn a_tool_is_this_program() {
        let pack = |path: &[u8]| Program::of_tool(&Tool::Pack { path: path.to_vec() });
        let found = pack(b"/a").unwrap();
        assert_eq!(text(&found.argv), ["banger-agent", "tool", "pack", "/a"]);
        assert_eq!((text(&found.candidates), found.env.len()), (vec!["/proc/self/exe"], 0));
        assert!(matches!(pack(b"a\0"), Err(Refusal::Failed(_))));
    }

    #[test]
    fn a_name_is_searched_in_the_commands_own_path() {
        let found = program(&["ls", "-l"], &["PATH=/a::b"]).unwrap();
        assert_eq!(text(&found.candidates), ["/a/ls", "./ls", "b/ls"]);
        assert_eq!(text(&found.argv), ["ls", "-l"]);
        assert!(text(&program(&["ls"], &[]).unwrap().candidates).contains(&"/usr/bin/ls"));
    }

    #[test]
    fn a_path_means_itself() {
        assert_eq!(text(&program(&["./x"], &["PATH=/a"]).unwrap().candidates), ["./x"]);
    }

    #[test]
    fn only_missing_variables_are_added() {
        let env = program(&["x"], &["HOME=/elsewhere", "A=1", "USER="]).unwrap().env;
        let env = text(&env);
        assert_eq!(env[..3], ["HOME=/elsewhere", "A=1", "USER="]);
        assert_eq!(env[4..], ["SHELL=/bin/sh", "LOGNAME=root"]);
        assert!(env[3].starts_with("PATH="));
    }

    #[test]
    fn what_no_program_could_be_given_is_refused() {
        assert!(matches!(program(&[], &[]), Err(Refusal::NotFound(_))));
        assert!(matches!(program(&[""], &[]), Err(Refusal::NotFound(_))));
        assert!(matches!(program(&["a", "b\0c"], &[]), Err(Refusal::Failed(_))));
    }

    #[test]
    fn a_script_without_an_interpreter_goes_to_the_shell() {
        let by_shell = program(&["s", "1"], &["PATH=/a:/b"]).unwrap().by_shell(1);
        assert_eq!(text(&by_shell.candidates), ["/bin/sh"]);
        assert_eq!(text(&by_shell.argv), ["/bin/sh", "/b/s", "1"]);
    }
}
