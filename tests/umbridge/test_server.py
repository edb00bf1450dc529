"""Clients of UM-Bridge over the loopback: the reference client, where it is installed."""

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from pddlvm.basics.errors import InputError
from pddlvm.basics.http_server import MAX_BYTES, Server

Z = [1.2, -0.7]


@pytest.fixture
def client():
    return pytest.importorskip("umbridge.um")


def expected(model, corrections=0):
    z = torch.tensor([Z], dtype=torch.float64, requires_grad=True)
    mean = model.forward(z, corrections=corrections).mean
    (slope,) = torch.autograd.grad(mean.sum(), z)
    return mean[0].detach(), slope[0]


@pytest.mark.parametrize("corrections", [0, 1])
def test_the_reference_client_gets_what_the_model_says(client, url, linear_model, corrections):
    assert client.supported_models(url) == ["forward", "fluxes", "posterior"]
    model, config = client.HTTPModel(url, "forward"), {"corrections": corrections}
    assert model.get_input_sizes() == [2] and model.get_output_sizes() == [17]
    assert model.supports_gradient() and not model.supports_apply_hessian()
    mean, slope = expected(linear_model, corrections)
    (found,) = model([Z], config)
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), mean, rtol=1e-12, atol=1e-14
    )
    found = model.gradient(0, 0, [Z], [1.0] * 17, config)
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), slope, rtol=1e-12, atol=1e-14
    )
    product = model.apply_jacobian(0, 0, [Z], [1.0, 0.5], config)
    # In single precision, in another order.
    assert sum(product) == pytest.approx(float(slope[0] + 0.5 * slope[1]), rel=1e-5)


def test_the_reference_client_is_told_what_was_wrong(client, url):
    model = client.HTTPModel(url, "forward")
    with pytest.raises(Exception, match=r"InvalidInput.*2 numbers"):
        model([[1.0, 2.0, 3.0]])


def test_two_clients_at_once(client, url, linear_model):
    mean, _ = expected(linear_model)
    begin = Barrier(2)

    def ask(name):
        model = client.HTTPModel(url, name)
        begin.wait()
        return [model([Z]) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        of_u, of_fluxes = pool.map(ask, ["forward", "fluxes"])
    assert of_u == [[mean.tolist()]] * 20
    assert of_fluxes == [of_fluxes[0]] * 20


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            Server(print, "127.0.0.1", port)


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(InputError, match=r"cannot listen at port 0 of '203\.0\.113\.1'"):
        Server(print, "203.0.113.1", 0)


@pytest.mark.parametrize("length", [str(MAX_BYTES + 1), "-1", "many", "9" * 5000])
def test_a_request_without_a_sensible_length_is_refused(url, length):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/Evaluate")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 411 and b"length" in answer.read()
    connection.close()


def test_many_requests_by_one_connection(url):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    for _ in range(3):
        connection.request("GET", "/Info")
        assert b"fluxes" in connection.getresponse().read()
    connection.close()
