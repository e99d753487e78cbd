//! Readers of the output that leave early, and output that is lost.
use super::*;

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let dir = dir_with(&[("ten.yaml", TEN), ("pod.yaml", POD), ("bad", "a: [")]);
    let ended = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(Artifacts::find().unwrap().driver());
        let command = command.current_dir(dir.path()).args(args).stdout(writer.try_clone().unwrap()).stderr(writer);
        command.status().unwrap().code()
    };
    assert_eq!(ended(&["convert", "--config", "ten.yaml", "--out", "out", "pod.yaml"]), Some(0));
    assert_eq!(names(&dir.path().join("out")).len(), 4);
    assert_eq!(ended(&["convert", "--config", "ten.yaml", "pod.yaml"]), Some(0));
    assert_eq!(ended(&["policy", "schema"]), Some(0));
    assert_eq!(ended(&["convert", "--config", "bad"]), Some(1), "an error stays one, told or not");
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let dir = dir_with(&[("ten.yaml", TEN)]);
    let mut command = Command::new(Artifacts::find().unwrap().driver());
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output =
        command.current_dir(dir.path()).args(["convert", "--config", "ten.yaml"]).stdout(full).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && errors.contains("standard output can't be written"), "{errors}");
}
