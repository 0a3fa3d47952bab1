import pytest, shutil, sys
sys.path.insert(0,'/work/main')
from tests.e2e.test_faults import *
from tests.e2e.test_faults import recipe
def test_rb(recipe, tmp_path):
    a,b = tmp_path/'a', tmp_path/'b'
    f = train_poisoned(recipe, BAD_STEPS, a, 2, train__deepspeed="zero2_offload")
    assert f.code==0, f.output
    b.mkdir(); shutil.copy(a/"skipped_steps.json", b)
    f = train(recipe, *overrides(run_dir=b, train__deepspeed="zero2_offload"), launcher="processes")
    assert f.code==0, f.output
    assert without_clock(a)==without_clock(b)
