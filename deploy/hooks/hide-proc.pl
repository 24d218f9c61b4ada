#!/usr/bin/perl
# hide-proc.pl ROOT MACHINE NAME...: covers ROOT/proc/NAME, such as are there, with what is empty and read-only.
# hide-proc.pl --in NAMESPACE MACHINE NAME...: the same in that mount namespace, whose root is ROOT then.
# MACHINE: as Node.js calls it, for the numbers of system calls.
# Each node does so at a start and at a restore, by what its own kernel has in /proc: criu leaves these mounts out of its
# images, so a destination need not have the same. One program for all of it, without modules: it runs inside the blackout, and
# `use strict` alone is twice its time. It starts none in the workload's namespace: those there are the workload's own.

my %machine = (x64 => { mount => 165, setns => 308 }, arm64 => { mount => 40, setns => 268 });
my ($RDONLY, $NOSUID, $NODEV, $NOEXEC, $REMOUNT, $BIND) = (1, 2, 4, 8, 32, 4096);
my $CLONE_NEWNS = 0x20000;

my $root      = shift @ARGV;
my $namespace = $root eq '--in' ? shift @ARGV : undef;
my $machine   = shift @ARGV;
my $nr        = $machine{$machine} or die "hide-proc.pl: no system calls known for $machine\n";
if (defined $namespace) {
    open(my $fd, '<', $namespace) or die "$namespace: $!\n";
    syscall($nr->{setns}, fileno $fd, $CLONE_NEWNS) == 0 or die "entering $namespace: $!\n";
    $root = '';
}

# Copies of its own: syscall() takes no literals.
sub cover {
    my ($source, $at, $type, $flags, $data) = @_;
    syscall($nr->{mount}, $source, $at, $type, $flags, $data) == 0 or die "hiding $at: $!\n";
}

# One tmpfs for all, on a directory that every kernel has: nothing in /proc can be replaced by the workload.
my $fs = "$root/proc/fs";
cover('tmpfs', $fs, 'tmpfs', $NOSUID | $NODEV | $NOEXEC, 'mode=555,size=4k');
mkdir "$fs/dir", 0555 or die "$fs/dir: $!\n";
open(my $file, '>', "$fs/file") or die "$fs/file: $!\n";
close $file;
for my $at (map { "$root/proc/$_" } @ARGV) {
    next if $at eq $fs || !-e $at;
    cover(-d _ ? "$fs/dir" : "$fs/file", $at, '', $BIND, '');
}
cover("$fs/dir", $fs, '', $BIND, '');
cover('', $fs, '', $REMOUNT | $RDONLY | $NOSUID | $NODEV | $NOEXEC, '');
