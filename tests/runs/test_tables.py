"""Tables as people and programs write them: what is clear is read, the rest is named."""

import math
from contextlib import suppress
from pathlib import Path

import parabolic
import pytest
import torch
from damaged import damaged
from hypothesis import given
from hypothesis import strategies as st

import pddlvm
from pddlvm.cli.common import parameters
from pddlvm.runs.tables import number, read_measurements, read_parameters, write_table
from problems import poisson

NAN = float("nan")
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MEASURED = b"x,value,std\n0.2,0.01,0.1\n0.5,,0.1\n0.7,0.03,0.1\n"
DRAWN = b"# of May\nkappa\n0,1\n-0,3\n"
ANYTHING = st.binary() | st.text().map(str.encode) | damaged(MEASURED) | damaged(DRAWN)


@pytest.fixture(scope="module")
def problem():
    return poisson.make_1d(8)


@pytest.fixture
def measured(problem, tmp_path: Path):
    def read(text: str):
        (tmp_path / "data.csv").write_bytes(text.encode())
        return read_measurements(tmp_path / "data.csv", problem, 0.1)

    return read


@pytest.mark.parametrize(
    "text",
    [
        "x,value\n0.25,-0.5\n0.5,1e-3\n",
        "x, value\r\n0.25, -0.5\r\n0.5, 1e-3\r\n",
        "\ufeffx;value\n0.25;-0.5\n0.5;1e-3\n",
        "x;value\n0,25;-0,5\n0,5;1e-3\n",
        "x\tvalue\n0.25\t-0.5\n0.5\t1e-3\n",
        "x\tvalue\n0,25\t-0,5\n0,5\t1e-3\n",
        "  x   value\n  0.25  -0.5\n\n  0.5  1e-3 \n",
        "# sensors\n# of May\nx,value\n0.25,-0.5\n0.5,1e-3\n",
        "% sensors; of May\nx,value\n0.25,-0.5\n# broken afterwards\n0.5,1e-3\n",
        "X,VALUE\n0.25,-0.5\n0.5,1e-3\n",
        ",x,value\n0,0.25,-0.5\n1,0.5,1e-3\n",
        "Unnamed: 0,x,Value\n0,0.25,-0.5\n1,0.5,1e-3\n",
        '"x","value"\n"0.25","-0.5"\n0.5,1e-3\n',
    ],
)
def test_tables_of_one_content_are_read_alike(measured, text):
    found = measured(text)
    assert found.observation.points.tolist() == [[0.25], [0.5]]
    assert found.y.tolist() == [-0.5, 1e-3]


@pytest.mark.parametrize("missing", ["", "NaN", "NA", "n/a", "null", "None", "-"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_value_may_be_missing(measured, mark, missing):
    y = measured(f"x{mark}value\n0.25{mark}{missing}\n0.5{mark}1\n").y
    torch.testing.assert_close(y, torch.tensor([NAN, 1.0]).double(), equal_nan=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,value\n0.25,1_0\n", "'1_0', which is no number"),
        ("x;value\n0,25;1.5\n", "with commas and with points"),
        ("x;value\n1;1,234\n", "may be a number with a decimal comma or thousands"),
        ("x,value\n0,25,1\n", "row 1 .* has 3 values, the header 2"),
        ("x;value,std\n1;1,1\n", "';' and ','"),
        ("# x value\n0.25 1\n0.5 1\n", "begins with numbers"),
        ("x,value,\n0.25,1,\n", "a column without a name"),
        (",x,value\n3,0.25,1\n7,0.5,1\n", "a column without a name"),
        ("x,X,value\n0.25,1,1\n", r"the columns \['X'\]"),
        ("x,value\nNA,1\n", "'NA', which is no number"),
        ("", "a header and at least one row"),
        ("# nothing\n", "a header and at least one row"),
    ],
)
def test_what_is_not_clear_is_named(measured, text, message):
    with pytest.raises(pddlvm.InputError, match=message):
        measured(text)


def test_parameters_are_read_alike(problem, tmp_path: Path):
    expected = [[0.5], [1.0]]
    for text in ("kappa\n0.5\n1\n", "Kappa\n0.5\n1\n", ";kappa\n0;0,5\n1;1\n"):
        (tmp_path / "z.csv").write_text(text)
        assert read_parameters(tmp_path / "z.csv", problem).tolist() == expected


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("tables") / "table.csv"


@given(st.lists(FINITE, min_size=1))
def test_a_table_is_read_as_it_was_written(problem, path: Path, values: list[float]):
    write_table(path, ["kappa"], torch.tensor(values, dtype=torch.float64)[:, None])
    assert read_parameters(path, problem)[:, 0].tolist() == values


@given(ANYTHING, st.sampled_from([None, 0.1]))
def test_whatever_a_file_holds_is_read_or_refused(problem, path: Path, content: bytes, noise_std):
    path.write_bytes(content)
    with suppress(pddlvm.InputError):
        assert torch.isfinite(read_parameters(path, problem)).all()
    with suppress(pddlvm.InputError):
        found = read_measurements(path, problem, noise_std)
        assert found.y.shape == (found.observation.n,)


@given(st.floats())
def test_a_number_is_read_as_it_was_written(value: float):
    found = number(repr(value))
    assert found == value or (math.isnan(found) and math.isnan(value))


@given(st.lists(FINITE, min_size=1, max_size=3))
def test_parameters_of_the_command_line_are_read_as_they_were_written(problem, values: list[float]):
    text = ",".join(map(repr, values))
    if len(values) == 1:
        assert parameters(problem, text, None, None, 0).tolist() == [values]
    else:
        with pytest.raises(pddlvm.InputError, match="needs 1 values"):
            parameters(problem, text, None, None, 0)


@given(st.text())
def test_whatever_is_typed_is_a_parameter_or_refused(problem, text: str):
    with suppress(pddlvm.InputError):
        assert parameters(problem, text, None, None, 0).shape == (1, 1)


def test_a_cell_of_a_sheet_without_a_value_is_no_comment(measured):
    assert measured("x,value\n0.25,1\n0.5,#N/A\n").y.isnan().tolist() == [False, True]
    # Of the first column it was taken for a comment, and the row was gone.
    for cell in ("#N/A", "#DIV/0!", "#NAME?"):
        with pytest.raises(pddlvm.InputError, match=r"row 2 .*which is no number"):
            measured(f"x,value\n0.25,1\n{cell},2\n")


def test_each_row_of_a_problem_in_time_has_its_own_time(tmp_path: Path):
    problem = parabolic.make("heat", 4, 6)
    path = tmp_path / "data.csv"
    path.write_text("t,x,y,value\n0.4,0.3,0.4,1\n0.1,0.5,0.5,2\n0.4,0.6,0.5,\n0.2,0.3,0.4,3\n")
    found = read_measurements(path, problem, 0.1)
    u = problem.solve(problem.prior.sample(seed=0))
    seen = pddlvm.PointObservation(
        problem, [[0.3, 0.4], [0.5, 0.5], [0.6, 0.5]], 0.1, times=[0.1, 0.2, 0.4]
    ).apply(u)
    torch.testing.assert_close(found.observation.apply(u), seen[[6, 1, 8, 3]])
    assert found.y.isnan().tolist() == [False, False, True, False]
    path.write_text("x,y,value\n0.3,0.4,1\n")
    with pytest.raises(pddlvm.InputError, match="has no column t; it needs x, y, t"):
        read_measurements(path, problem, 0.1)
