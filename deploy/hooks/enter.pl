#!/usr/bin/perl
# enter.pl MACHINE UID GID GROUPS CAPABILITIES DIR NAME=VALUE... -- PROGRAM ARGS...
# The end of launch.sh, in the new root: turns the root round, lets the node's go, drops every right that the workload shall not
# have, and becomes PROGRAM. MACHINE: as Node.js calls it. GROUPS, CAPABILITIES: numbers with commas, or -.
# One process that was loaded from the node, without modules: from the turn on every program and library that is found by name is
# the workload's own, and its root may have put another one there. Nothing of it runs before the rights are gone.
# Exit codes as of `env`: 125 the directory can't be entered, 126 it can't be executed, 127 it is not found.

my %machine = (
    x64 => {
        pivot_root => 155, umount2 => 166, setsid => 112, prctl => 157, capget => 125, capset => 126, setgroups => 116,
        setresgid => 119, setresuid => 117, close_range => 436,
    },
    arm64 => {
        pivot_root => 41, umount2 => 39, setsid => 157, prctl => 167, capget => 90, capset => 91, setgroups => 159,
        setresgid => 149, setresuid => 147, close_range => 436,
    },
);
my ($machine, $uid, $gid, $groups, $capabilities, $dir) = splice @ARGV, 0, 6;
my $nr = $machine{$machine} or die "enter.pl: no system calls known for $machine\n";

my ($MNT_DETACH, $O_WRONLY, $O_CREAT, $O_APPEND) = (2, 1, 64, 1024);
my $O_NOFOLLOW = $machine eq 'arm64' ? 32768 : 131072;
my ($PR_CAPBSET_DROP, $PR_SET_NO_NEW_PRIVS, $PR_CAP_AMBIENT, $CLEAR_ALL) = (24, 38, 47, 4);
my ($EINVAL, $ENOENT) = (22, 2);

# Copies of its own: syscall() takes no literals. What fails is fatal: nothing runs with more than it may have.
sub call {
    my ($name, @args) = @_;
    my $result = syscall($nr->{$name}, @args);
    die "enter.pl: $name: $!\n" if $result < 0;
    return $result;
}
my $zero = 0;

my ($here, $old) = ('.', 'run/.ferry/node');
call('pivot_root', $here, $old);
chdir '/' or die "enter.pl: /: $!\n";
$old = "/$old";
call('umount2', $old, $MNT_DETACH);
rmdir $old or die "enter.pl: $old: $!\n";

$| = 1;
print "ready\n";
open(STDIN, '<', '/dev/null') or die "enter.pl: /dev/null: $!\n";
# Made by the node for the workload's user; a link of the workload's would be opened with the rights that are still there.
sysopen(my $log, '/run/ferry-log/output.log', $O_WRONLY | $O_APPEND | $O_CREAT | $O_NOFOLLOW, 0640)
  or die "enter.pl: the log: $!\n";
open(STDOUT, '>&', $log) or die "enter.pl: standard output: $!\n";
open(STDERR, '>&', $log) or die "enter.pl: standard error: $!\n";
close $log;
# criu refuses descriptors that lead outside the workload's mounts.
my ($first, $last) = (3, 0xffffffff);
call('close_range', $first, $last, $zero);
call('setsid');

my %keep = map { $_ => 1 } grep { $_ ne '-' } split /,/, $capabilities;
for my $each (0 .. 63) {
    next if $keep{$each};
    my $number = $each;
    next if syscall($nr->{prctl}, $PR_CAPBSET_DROP, $number, $zero, $zero, $zero) == 0;
    last if $! == $EINVAL;    # the kernel has no more of them
    die "enter.pl: dropping capability $each: $!\n";
}
call('prctl', $PR_CAP_AMBIENT, $CLEAR_ALL, $zero, $zero, $zero);
# Nothing is inherited over an exec but by the bounding set and the user.
my ($header, $sets) = (pack('LL', 0x20080522, 0), "\0" x 24);
syscall($nr->{capget}, $header, $sets) == 0 or die "enter.pl: capget: $!\n";
my @sets = unpack 'L6', $sets;
@sets[2, 5] = (0, 0);
$sets = pack 'L6', @sets;
call('capset', $header, $sets);
my @groups = grep { $_ ne '-' } split /,/, $groups;
my ($count, $list) = (scalar @groups, pack('L*', @groups));
if   ($count > 0) { call('setgroups', $count, $list) }
else              { call('setgroups', $zero,  $zero) }
# Numbers, not the words that they came as.
$gid += 0;
$uid += 0;
call('setresgid', $gid, $gid, $gid);
call('setresuid', $uid, $uid, $uid);
my $one = 1;
call('prctl', $PR_SET_NO_NEW_PRIVS, $one, $zero, $zero, $zero);

%ENV = ();
while (@ARGV && $ARGV[0] ne '--') {
    my ($name, $value) = split /=/, shift @ARGV, 2;
    $ENV{$name} = $value;
}
shift @ARGV;
if (!chdir $dir) {
    print STDERR "cannot change directory to '$dir': $!\n";
    exit 125;
}
exec { $ARGV[0] } @ARGV;
my $not_found = $! == $ENOENT;
print STDERR "'$ARGV[0]': $!\n";
exit($not_found ? 127 : 126);
