#!/usr/bin/perl
# limits.pl CRIU ARGS...: runs criu where root lacks CAP_SYS_RESOURCE (many containers). There the kernel refuses
# prlimit64(pid, ..., NULL, old) on a process of another user ("Can't get rlimit 0: Operation not permitted"), and criu can't
# dump it. The same limits can be read in /proc/PID/limits: a seccomp filter hands just these calls of criu to this
# process, which answers them from there. Nothing else is touched; if this process dies, such a call fails and criu gives up.
use strict;
use warnings;
use POSIX qw(:sys_wait_h);

my %machine = (
    x86_64  => { audit => 0xc000003e, seccomp => 317, prlimit64 => 302 },
    aarch64 => { audit => 0xc00000b7, seccomp => 277, prlimit64 => 261 },
);
my $arch = (POSIX::uname())[4];
my $nr   = $machine{$arch} or exec(@ARGV);
my ($PIDFD_OPEN, $PIDFD_GETFD) = (434, 438);
my ($RECV, $SEND) = (0xc0502100, 0xc0182101);
my @NAMES = (
    'cpu time', 'file size', 'data size', 'stack size', 'core file size', 'resident set', 'processes', 'open files',
    'locked memory', 'address space', 'file locks', 'pending signals', 'msgqueue size', 'nice priority',
    'realtime priority', 'realtime timeout',
);

pipe(my $told, my $tell) or die "pipe: $!";
pipe(my $wait, my $go)   or die "pipe: $!";
my $pid = fork() // die "fork: $!";
if ($pid == 0) {
    close $told;
    close $go;
    # load a word of seccomp_data; jump if equal; return
    my ($LD, $JEQ, $RET) = (0x20, 0x15, 0x06);
    my @filter = (
        [ $LD,  0, 0, 4 ],  [ $JEQ, 0, 9, $nr->{audit} ],
        [ $LD,  0, 0, 0 ],  [ $JEQ, 0, 7, $nr->{prlimit64} ],
        [ $LD,  0, 0, 16 ], [ $JEQ, 5, 0, 0 ],                  # pid 0: itself
        [ $LD,  0, 0, 32 ], [ $JEQ, 0, 3, 0 ],                  # new limit: not only asking
        [ $LD,  0, 0, 36 ], [ $JEQ, 0, 1, 0 ],
        [ $RET, 0, 0, 0x7fc00000 ],                             # ask the listener
        [ $RET, 0, 0, 0x7fff0000 ],                             # allow
    );
    my $code    = join '', map { pack 'SCCL', @$_ } @filter;
    my $program = pack 'Sx6P', scalar(@filter), $code;
    my $fd      = syscall($nr->{seccomp}, 1, 8, $program);
    die "seccomp: $!" if $fd < 0;
    syswrite $tell, "$fd\n";
    close $tell;
    sysread $wait, my $word, 1;
    exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!";
}
close $tell;
close $wait;
my $number = <$told>;
if (defined $number) {
    my $pidfd    = syscall($PIDFD_OPEN, $pid, 0);
    my $fd       = syscall($PIDFD_GETFD, $pidfd, int $number, 0);
    open(my $listener, '+<&=', $fd) or die "pidfd_getfd: $!";
    POSIX::close($pidfd);
    syswrite $go, 'g';
    close $go;
    while (waitpid($pid, WNOHANG) == 0) {
        vec(my $set = '', $fd, 1) = 1;
        next if select($set, undef, undef, 0.02) <= 0;
        my $question = "\0" x 80;
        ioctl($listener, $RECV, $question) or next;
        my ($id, $asker, undef, undef, undef, undef, $of, $resource, undef, $old) = unpack 'QLLLLQQQQQ', $question;
        my $answer = pack 'QqlL', $id, 0, answer($asker, $of, $resource, $old), 0;
        ioctl($listener, $SEND, $answer);
    }
} else {
    waitpid($pid, 0);
}
exit(WIFSIGNALED($?) ? 128 + WTERMSIG($?) : WEXITSTATUS($?));

# Writes the limit to where the asker wants it. 0, or a negative errno.
sub answer {
    my ($asker, $of, $resource, $old) = @_;
    my $name = $NAMES[$resource] // return -22;
    open(my $limits, '<', "/proc/$of/limits") or return -3;
    my ($soft, $hard);
    while (<$limits>) {
        ($soft, $hard) = ($1, $2) if /^Max \Q$name\E\s+(unlimited|\d+)\s+(unlimited|\d+)\b/;
    }
    return -3 unless defined $hard;
    my $bytes = pack 'QQ', map { $_ eq 'unlimited' ? ~0 : $_ } $soft, $hard;
    open(my $memory, '+<:raw', "/proc/$asker/mem") or return -14;
    sysseek $memory, $old, 0 or return -14;
    return syswrite($memory, $bytes) == 16 ? 0 : -14;
}
