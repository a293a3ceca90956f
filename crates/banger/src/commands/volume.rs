//! `banger volume`: disks that outlive sandboxes.

use banger_api::types::{CreateVolume, ResizeVolume, Volume};
use banger_model::{Bytes, DiskSize, ExitCode, VolumeName};
use clap_complete::ArgValueCandidates;

use crate::commands::listing::Listing;
use crate::commands::{completion, delete_each, with_daemon};
use crate::error::CommandError;
use crate::output::{self, Format, Table};

/// Make a volume
///
/// Nothing is in it: when it is first mounted, it gets what the image has at that path. `--volume`
/// makes a volume that is missing, too. Prints its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger volume create data --size 20G\n  \
                        banger vm create db --volume data:/var/lib/postgresql")]
pub(crate) struct CreateArgs {
    /// What it is to be called
    name: VolumeName,
    /// What is to fit in; it takes only the space that is written
    #[arg(long, default_value_t = DiskSize::DEFAULT)]
    size: DiskSize,
}

pub(crate) fn create(args: CreateArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let wanted = CreateVolume { name: args.name, size: Some(args.size) };
    let made = with_daemon(verbosity, async |client| Ok(client.create_volume(&wanted).await?))?;
    output::line(made.name.as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// List volumes
///
/// IN USE is the sandbox whose machine has it: only one can.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger volume list\n  banger volume list -o json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn list(args: &ListArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let volumes = with_daemon(verbosity, async |client| Ok(client.volumes().await?))?;
    args.listing.show(&volumes, |it| it.name.to_string(), table)
}

fn table(volumes: &[Volume]) -> String {
    let mut table = Table::new(["NAME", "SIZE", "USED", "IN USE", "USED BY"]);
    for volume in volumes {
        table.row([
            volume.name.to_string(),
            Bytes::new(volume.size).to_string(),
            Bytes::new(volume.used).to_string(),
            volume.in_use_by.clone().unwrap_or_else(|| "no".to_owned()),
            volume.used_by.join(","),
        ]);
    }
    table.render(&[])
}

/// Show a volume
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger volume show data")]
pub(crate) struct ShowArgs {
    /// The volume
    #[arg(add = ArgValueCandidates::new(completion::volume_names))]
    name: VolumeName,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn show(args: &ShowArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let volume = with_daemon(verbosity, async |client| Ok(client.volume(&args.name).await?))?;
    match args.output {
        Format::Json => output::json(&volume)?,
        Format::Text => output::text(&text(&volume))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(volume: &Volume) -> String {
    let mut pairs = vec![
        ("name", volume.name.to_string()),
        ("size", Bytes::new(volume.size).to_string()),
        ("used", Bytes::new(volume.used).to_string()),
    ];
    pairs.extend(volume.in_use_by.iter().map(|holder| ("in use by", holder.clone())));
    pairs.extend(volume.used_by.iter().map(|user| ("used by", user.clone())));
    output::pairs(&pairs)
}

/// Make a volume larger
///
/// No sandbox that runs or is paused may have it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger volume resize data 40G")]
pub(crate) struct ResizeArgs {
    /// The volume
    #[arg(add = ArgValueCandidates::new(completion::volume_names))]
    name: VolumeName,
    /// What is to fit in: not less than it has
    size: DiskSize,
}

pub(crate) fn resize(args: &ResizeArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    let wanted = ResizeVolume { size: args.size };
    let resized = with_daemon(verbosity, async |client| {
        Ok(client.resize_volume(&args.name, &wanted).await?)
    })?;
    output::line(resized.name.as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// Delete volumes, and what is in them
///
/// There is no way back. One that a sandbox is made with stays. Prints the name of each that goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger volume rm data")]
pub(crate) struct DeleteArgs {
    /// The volumes
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completion::volume_names))]
    names: Vec<VolumeName>,
}

pub(crate) fn delete(args: &DeleteArgs, verbosity: u8) -> Result<ExitCode, CommandError> {
    delete_each(&args.names, verbosity, async |client, name| {
        client.delete_volume(name).await?;
        Ok(name.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_shown_with_who_needs_them() {
        let volume: Volume = serde_json::from_value(serde_json::json!({
            "name": "data", "size": 8_u64 << 30, "used": 1 << 20, "in_use_by": "web",
            "used_by": ["web", "db"],
        }))
        .unwrap();
        let free = Volume { in_use_by: None, used_by: Vec::new(), ..volume.clone() };
        assert_eq!(
            table(&[volume.clone(), free]),
            "NAME  SIZE  USED  IN USE  USED BY\ndata  8G    1M    web     web,db\n\
             data  8G    1M    no\n"
        );
        assert!(text(&volume).contains("in use by: web"), "{}", text(&volume));
    }
}
