#!/usr/bin/perl
# answers.pl [--limits] [--leave-out FILE STACKS BYTES] -- CRIU ARGS...: runs criu and answers some of its system calls in the
# kernel's place. A seccomp filter hands just these calls of criu to this process; everything else is the kernel's. If this
# process dies, such a call fails and criu gives up before it has done anything.
#
# --limits     where root lacks CAP_SYS_RESOURCE (many containers) the kernel refuses prlimit64(pid, ..., NULL, old) on a process
#              of another user ("Can't get rlimit 0: Operation not permitted"), and criu can't dump it. The same limits can
#              be read in /proc/PID/limits.
# --leave-out  criu is told that private anonymous areas of BYTES or more are empty, but for the pages that stacks point
#              into (STACKS: lines of /proc/PID/task/*/syscall, written by the network-lock hook when all is stopped). criu would
#              put every page of them into pipes that nobody reads: 0.1 to 0.15 s per GiB in the blackout. FILE gets a line
#              "PID START END" (hexadecimal addresses) for each: whoever has asked for this must add their pages to criu's
#              images (transfer/images/left-out.ts). What is not certain is left to the kernel.
use strict;
use warnings;
no warnings 'portable';    # addresses have more than 32 bits
use POSIX qw(:sys_wait_h :fcntl_h);

my %machine = (
    x86_64  => { audit => 0xc000003e, seccomp => 317, prlimit64 => 302, ioctl => 16 },
    aarch64 => { audit => 0xc00000b7, seccomp => 277, prlimit64 => 261, ioctl => 29 },
);
my ($limits, $left_out, $stacks, $least);
while (@ARGV && $ARGV[0] ne '--') {
    my $option = shift @ARGV;
    if    ($option eq '--limits')    { $limits = 1 }
    elsif ($option eq '--leave-out') { ($left_out, $stacks, $least) = splice @ARGV, 0, 3 }
    else                             { die "answers.pl: unknown option $option\n" }
}
shift @ARGV;
my $arch = (POSIX::uname())[4];
my $nr   = $machine{$arch} or exec(@ARGV);
my ($PIDFD_OPEN, $PIDFD_GETFD) = (434, 438);
my ($RECV, $SEND) = (0xc0502100, 0xc0182101);
my $CONTINUE     = 1;             # SECCOMP_USER_NOTIF_FLAG_CONTINUE
my $PAGEMAP_SCAN = 0xc0606610;    # _IOWR('f', 16, struct pm_scan_arg)
my ($PRESENT, $SWAPPED) = (8, 16);
my @NAMES = (
    'cpu time', 'file size', 'data size', 'stack size', 'core file size', 'resident set', 'processes', 'open files',
    'locked memory', 'address space', 'file locks', 'pending signals', 'msgqueue size', 'nice priority',
    'realtime priority', 'realtime timeout',
);
my %areas;                        # by pid: what /proc/PID/maps says, read once: the tree stands still
my $pointers;                     # where stacks stand, by pid
my $list;
if (defined $left_out) {
    sysopen($list, $left_out, O_WRONLY | O_CREAT | O_APPEND, 0600) or die "$left_out: $!";
}

pipe(my $told, my $tell) or die "pipe: $!";
pipe(my $wait, my $go)   or die "pipe: $!";
my $pid = fork() // die "fork: $!";
if ($pid == 0) {
    close $told;
    close $go;
    my $code    = join '', map { pack 'SCCL', @$_ } filter();
    my $program = pack 'Sx6P', length($code) / 8, $code;
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
        my ($id, $asker, undef, $call, undef, undef, @args) = unpack 'QLLlLQQQQQQQ', $question;
        my ($value, $error, $flags) =
            $call == $nr->{prlimit64} ? (0, limit($asker, @args), 0) : scan($asker, @args);
        ioctl($listener, $SEND, pack 'QqlL', $id, $value, $error, $flags);
    }
} else {
    waitpid($pid, 0);
}
exit(WIFSIGNALED($?) ? 128 + WTERMSIG($?) : WEXITSTATUS($?));

# Classic BPF over seccomp_data: a word is loaded, jumps are forwards.
sub filter {
    my ($LD, $JEQ, $RET) = (0x20, 0x15, 0x06);
    my ($ask, $allow) = ([ $RET, 0, 0, 0x7fc00000 ], [ $RET, 0, 0, 0x7fff0000 ]);
    my @filter = ([ $LD, 0, 0, 4 ], [ $JEQ, 1, 0, $nr->{audit} ], $allow);
    if (defined $left_out) {
        push @filter, [ $LD, 0, 0, 0 ], [ $JEQ, 0, 4, $nr->{ioctl} ], [ $LD, 0, 0, 24 ], [ $JEQ, 0, 1, $PAGEMAP_SCAN ], $ask,
            $allow;
    }
    if ($limits) {
        push @filter, [ $LD, 0, 0, 0 ], [ $JEQ, 0, 7, $nr->{prlimit64} ],
            [ $LD, 0, 0, 16 ], [ $JEQ, 5, 0, 0 ],    # pid 0: itself
            [ $LD, 0, 0, 32 ], [ $JEQ, 0, 3, 0 ],    # new limit: not only asking
            [ $LD, 0, 0, 36 ], [ $JEQ, 0, 1, 0 ], $ask;
    }
    return (@filter, $allow);
}

# Writes the limit to where the asker wants it. 0, or a negative errno.
sub limit {
    my ($asker, $of, $resource, undef, $old) = @_;
    my $name = $NAMES[$resource] // return -22;
    open(my $file, '<', "/proc/$of/limits") or return -3;
    my ($soft, $hard);
    while (<$file>) {
        ($soft, $hard) = ($1, $2) if /^Max \Q$name\E\s+(unlimited|\d+)\s+(unlimited|\d+)\b/;
    }
    return -3 unless defined $hard;
    my $bytes = pack 'QQ', map { $_ eq 'unlimited' ? ~0 : $_ } $soft, $hard;
    open(my $memory, '+<:raw', "/proc/$asker/mem") or return -14;
    sysseek $memory, $old, 0 or return -14;
    return syswrite($memory, $bytes) == 16 ? 0 : -14;
}

# PAGEMAP_SCAN of a large area: value, error, flags of the answer.
sub scan {
    my ($asker, $fd, undef, $pointer) = @_;
    my @kernel = (0, 0, $CONTINUE);
    open(my $memory, '+<:raw', "/proc/$asker/mem") or return @kernel;
    sysseek($memory, $pointer, 0) && (sysread($memory, my $bytes, 96) // 0) == 96 or return @kernel;
    my (undef, $flags, $start, $end, undef, $vector, $room) = unpack 'Q7', $bytes;
    return @kernel if $flags != 0 || $end < $start + $least;
    (readlink("/proc/$asker/fd/$fd") // '') =~ m{/(\d+)/pagemap$} or return @kernel;
    my $of = $1;
    my $known = $areas{$of} //= areas($of);
    return @kernel unless $known->{"$start-$end"};
    my $found = '';
    for my $page (stack_pages($of, $start, $end)) {
        my $categories = categories($of, $page) // return @kernel;
        $found .= pack 'Q3', $page, $page + 4096, $categories if $categories;
    }
    return @kernel if length($found) / 24 > $room;
    my $line = sprintf "%d %x %x\n", $of, $start, $end;
    return @kernel unless (syswrite($list, $line) // 0) == length $line;
    # From here on it is written down: an answer that fails makes criu give up.
    if (length $found) {
        sysseek($memory, $vector, 0) && (syswrite($memory, $found) // 0) == length $found or return (0, -14, 0);
    }
    sysseek($memory, $pointer + 32, 0) && (syswrite($memory, pack 'Q', $end) // 0) == 8 or return (0, -14, 0);
    return (length($found) / 24, 0, 0);
}

# Areas that criu restores lazily (vma_entry_can_be_lazy), as "start-end". None where memory is locked: maps does not say which.
sub areas {
    my ($of) = @_;
    open(my $status, '<', "/proc/$of/status") or return {};
    my $locked = 1;
    while (<$status>) { $locked = $1 if /^VmLck:\s+(\d+) kB/ }
    return {} if $locked || !where($of);
    open(my $maps, '<', "/proc/$of/maps") or return {};
    my %found;
    while (<$maps>) {
        /^([0-9a-f]{1,12})-([0-9a-f]{1,12}) [r-][w-][x-]p [0-9a-f]+ 00:00 0 *(?:\[heap\]|\[anon:.*\])?$/ or next;
        $found{ hex($1) . '-' . hex($2) } = 1;
    }
    return \%found;
}

# Stack pointers of a task's threads; undef: they are not known.
sub where {
    my ($of) = @_;
    if (!defined $pointers) {
        $pointers = {};
        open(my $file, '<', $stacks) or return undef;
        while (<$file>) {
            # "PID NUMBER [ARGUMENTS] SP PC"; a thread that is running has nothing of it
            if (/^(\d+) (?:-?\d+) .*?0x([0-9a-f]+) 0x[0-9a-f]+$/) { push @{ $pointers->{$1} }, hex $2 }
            elsif (/^(\d+) /)                                     { $pointers->{$1} = undef; return undef }
        }
    }
    return $pointers->{$of};
}

sub stack_pages {
    my ($of, $start, $end) = @_;
    my %pages = map { ($_ & ~4095) => 1 } grep { $_ >= $start && $_ < $end } @{ where($of) };
    return sort { $a <=> $b } keys %pages;
}

# What the kernel says of one page, undef: nothing.
sub categories {
    my ($of, $page) = @_;
    open(my $file, '<:raw', "/proc/$of/pagemap") or return undef;
    sysseek($file, $page / 4096 * 8, 0) && (sysread($file, my $bytes, 8) // 0) == 8 or return undef;
    my $entry = unpack 'Q', $bytes;
    return ($entry >> 63 ? $PRESENT : 0) | (($entry >> 62) & 1 ? $SWAPPED : 0);
}
