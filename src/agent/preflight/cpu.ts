/** Which CPU flags may be missing on the destination without any program noticing. */

/**
 * Flags that only the kernel or a hypervisor uses, and synthetic ones: a program can't have chosen code by them.
 * Everything else blocks: a missing instruction is a SIGILL in the middle of somebody's work.
 */
const HARMLESS = new Set(
  (
    "acpi aperfmperf apic arat arch_capabilities arch_lbr arch_perfmon art bts cat_l2 cat_l3 cdp_l2 cdp_l3 cmp_legacy " +
    "constant_tsc cpb cpuid_fault cqm cqm_llc cqm_mbm_local cqm_mbm_total cqm_occup_llc cr8_legacy dca de debug_swap " +
    "ds_cpl dtes64 dtherm dts ept ept_ad epb est extapic extd_apicid flexpriority flush_l1d flushbyasid hfi ht " +
    "hw_pstate hwp hwp_act_window hwp_epp hwp_notify hwp_pkg_req hypervisor ibpb ibpb_exit_to_user ibrs " +
    "ibrs_enhanced ibs ida intel_ppin amd_ppin intel_pt invpcid invpcid_single irperf lbrv mba mca mce md_clear " +
    "mds_clear monitor msr mtrr mwaitx nonstop_tsc nopl npt nrip_save nx osvw overflow_recov ospke pae " +
    "pat pausefilter pbe pcid pconfig pdcm pebs perfctr_core perfctr_llc perfctr_nb perfmon_v2 pfthreshold pge pln " +
    "pse pse36 pti pts rdt_a rep_good retpoline rrsba_ctrl sev sev_es sgx sgx_lc skinit smap smca smep smx " +
    "spec_ctrl ss ssbd split_lock_detect stibp succor svm svm_lock tce tm tm2 tme topoext tpr_shadow " +
    "tsc_adjust tsc_deadline_timer tsc_known_freq tsc_reliable tsc_scale tsc_thread_offset umip " +
    "v_spec_ctrl v_vmsave_vmload vgif virt_ssbd vmcb_clean vme vmmcall vmx vnmi vpid wdt x2apic " +
    "x2avic xtopology xtpr"
  ).split(" "),
);

export interface FlagDifference {
  /** Programs may use them: refuse. */
  missing: string[];
  /** Only kernels use them. */
  harmless: string[];
}

export function compareFlags(source: readonly string[], destination: readonly string[]): FlagDifference {
  const have = new Set(destination);
  const absent = source.filter((flag) => !have.has(flag));
  return {
    missing: absent.filter((flag) => !HARMLESS.has(flag)).sort(),
    harmless: absent.filter((flag) => HARMLESS.has(flag)).sort(),
  };
}
