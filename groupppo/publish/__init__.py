"""Results that leave this machine: bundles, their verification, and the comparison of two of them.

bundle.make_bundle, verify.verify, compare.compare and compare_page.write_comparison are the whole interface.
"""
