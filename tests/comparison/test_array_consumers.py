"""Libraries that take any array of the array API standard, on our tensors.

SciPy and scikit-learn compute with the functions of `schuss` then.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import schuss

if "scipy" not in sys.modules:
    os.environ["SCIPY_ARRAY_API"] = "1"  # SciPy reads it once, when it is imported

pytestmark = [
    pytest.mark.comparison,
    pytest.mark.filterwarnings("ignore"),  # those of other libraries are none of our business
]

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5))
POSITIVE = np.abs(X)
LABELS = (X[:, 0] > 0).astype(np.int64)
GUESSES = (X[:, 1] > 0).astype(np.int64)
TARGET = np.abs(X @ np.arange(5.0)) + 1


def agree(f, *arrays: np.ndarray) -> None:
    """The same values, and tensors where tensors went in (but for a few that say otherwise)."""
    found, expected = f(*[schuss.tensor(each) for each in arrays]), f(*arrays)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-8)


# --- scikit-learn ---


@pytest.fixture
def dispatch():
    sklearn = pytest.importorskip("sklearn")
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        pytest.skip("SciPy was imported before SCIPY_ARRAY_API was set")
    with sklearn.config_context(array_api_dispatch=True):
        yield


CLASSIFICATION = [
    "accuracy_score", "confusion_matrix", "f1_score", "hamming_loss", "jaccard_score",
    "precision_score", "recall_score", "zero_one_loss",
]  # fmt: skip
REGRESSION = [
    "d2_tweedie_score", "explained_variance_score", "max_error", "mean_absolute_error",
    "mean_pinball_loss", "mean_squared_error", "mean_squared_log_error", "mean_tweedie_deviance",
    "median_absolute_error", "r2_score", "root_mean_squared_error",
]  # fmt: skip
KERNELS = [
    "additive_chi2_kernel", "chi2_kernel", "cosine_distances", "cosine_similarity",
    "euclidean_distances", "laplacian_kernel", "linear_kernel", "manhattan_distances",
    "polynomial_kernel", "rbf_kernel", "sigmoid_kernel",
]  # fmt: skip


@pytest.mark.usefixtures("dispatch")
@pytest.mark.parametrize("name", CLASSIFICATION + REGRESSION)
def test_metrics(name) -> None:
    from sklearn import metrics

    arrays = (LABELS, GUESSES) if name in CLASSIFICATION else (TARGET, TARGET + 0.5)
    agree(getattr(metrics, name), *arrays)


@pytest.mark.usefixtures("dispatch")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name) -> None:
    from sklearn.metrics import pairwise

    agree(getattr(pairwise, name), POSITIVE)


@pytest.mark.usefixtures("dispatch")
def test_scores_of_probabilities() -> None:
    from sklearn import metrics

    agree(metrics.log_loss, LABELS, 1 / (1 + np.exp(-X[:, 1])))


TRANSFORMERS = {
    "Binarizer": {}, "MaxAbsScaler": {}, "MinMaxScaler": {}, "Normalizer": {},
    "PolynomialFeatures": {}, "RobustScaler": {}, "StandardScaler": {},
}  # fmt: skip


@pytest.mark.usefixtures("dispatch")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_preprocessing(name) -> None:
    from sklearn import preprocessing

    kind = getattr(preprocessing, name)
    agree(lambda x: kind().fit(x).transform(x), X)


@pytest.mark.usefixtures("dispatch")
@pytest.mark.parametrize("solver", ["full", "covariance_eigh", "randomized"])
def test_principal_components(solver) -> None:
    from sklearn.decomposition import PCA

    def components(x):
        pca = PCA(2, svd_solver=solver, power_iteration_normalizer="QR", random_state=0)
        return pca.fit(x).transform(x)

    agree(components, X)


@pytest.mark.usefixtures("dispatch")
def test_estimators() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.naive_bayes import GaussianNB

    for model in (LinearDiscriminantAnalysis(), GaussianNB()):
        agree(lambda x, y, model=model: model.fit(x, y).predict(x), X, LABELS)
    for model in (Ridge(solver="svd"), RidgeCV()):
        agree(lambda x, y, model=model: model.fit(x, y).predict(x), X, TARGET)


# --- SciPy ---

STATS = [
    "circmean", "entropy", "gmean", "hmean", "kurtosis", "moment", "rankdata", "sem", "skew",
    "tmean", "tvar", "variation", "zscore",
]  # fmt: skip
TESTS = ["jarque_bera", "normaltest"]
SPECIAL = ["entr", "erf", "expit", "gammaln", "i0", "logsumexp", "ndtr", "softmax"]
FFT = ["dct", "fft", "fftn", "ifft", "rfft"]
SIGNAL = ["detrend", "hilbert"]


def scipy_module(name: str):
    module = pytest.importorskip(f"scipy.{name}")
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        pytest.skip("SciPy was imported before SCIPY_ARRAY_API was set")
    return module


@pytest.mark.parametrize("name", STATS)
def test_scipy_stats(name) -> None:
    more = (2,) if name == "moment" else ()
    agree(lambda x: getattr(scipy_module("stats"), name)(x, *more), POSITIVE[:, 0])


@pytest.mark.parametrize("name", TESTS)
def test_scipy_hypotheses(name) -> None:
    agree(lambda x: getattr(scipy_module("stats"), name)(x).pvalue, X[:, 0])


def test_scipy_correlation() -> None:
    agree(lambda x, y: scipy_module("stats").pearsonr(x, y).statistic, X[:, 0], X[:, 1])


@pytest.mark.parametrize(
    ("module", "name"),
    [("special", each) for each in SPECIAL]
    + [("fft", each) for each in FFT]
    + [("signal", each) for each in SIGNAL],
)
def test_scipy_functions(module, name) -> None:
    agree(getattr(scipy_module(module), name), POSITIVE[:, 0])


def test_scipy_integrals_and_filters() -> None:
    agree(scipy_module("integrate").trapezoid, X[:, 0])
    agree(scipy_module("integrate").simpson, X[:, 0])
    agree(lambda x: scipy_module("ndimage").gaussian_filter(x, 1.0), X)
    agree(scipy_module("signal").convolve, X[:, 0], X[:5, 1])
    agree(lambda x: scipy_module("signal").savgol_filter(x, 7, 2), X[:, 0])
    agree(lambda x: scipy_module("signal").wiener(x, 3), X[:, 0])
    agree(lambda x: scipy_module("signal").resample(x, 20), X[:, 0])
    agree(scipy_module("cluster.vq").whiten, X)
