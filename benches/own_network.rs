//! A network of a reader's own, with our code behind Burn's layers or with Burn's, trained by SGD on images of
//! 3 x 32 x 32: four times convolution 3 x 3, normalization, ReLU, pooling; or one of these, then three residual blocks of
//! two convolutions, each with pooling behind it. Prints training steps a second over the whole machine, and the peak
//! memory in MiB.
//!
//! ```text
//! cargo bench --profile dev --bench own_network -- [DEVICE] [LANES] [SECONDS] [fast|burn] [plain|residual]
//! ```

use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use leap_models::fast;

#[derive(Module, Debug)]
struct Net {
    convolutions: Vec<Conv2d>,
    norms: Vec<BatchNorm>,
    pool: MaxPool2d,
    head: Linear,
    fast: bool,
    residual: bool,
}

impl Net {
    fn new(device: &Device, fast: bool, residual: bool) -> Self {
        let layers = if residual { 7 } else { 4 };
        let convolution = |channels| {
            Conv2dConfig::new([channels, 64], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self {
            convolutions: (0..layers)
                .map(|i| convolution(if i == 0 { 3 } else { 64 }))
                .collect(),
            norms: (0..layers)
                .map(|_| BatchNormConfig::new(64).init(device))
                .collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            head: LinearConfig::new(256, 20).init(device),
            fast,
            residual,
        }
    }

    fn convolve(&self, layer: usize, x: Tensor<4>) -> Tensor<4> {
        match self.fast {
            true => fast::conv2d(&self.convolutions[layer], x),
            false => self.convolutions[layer].forward(x),
        }
    }

    /// Convolution, normalization, ReLU, pooling.
    fn block(&self, layer: usize, x: Tensor<4>) -> Tensor<4> {
        let (x, norm) = (self.convolve(layer, x), &self.norms[layer]);
        match self.fast {
            true => fast::norm_relu_pool(norm, x),
            false => self.pool.forward(relu(norm.forward(x))),
        }
    }

    /// Two convolutions, what they add to `x`, ReLU, pooling.
    fn residual_block(&self, layer: usize, x: Tensor<4>) -> Tensor<4> {
        let [first, second] = [&self.norms[layer], &self.norms[layer + 1]];
        let y = self.convolve(layer, x.clone());
        let y = match self.fast {
            true => fast::norm_relu(first, y),
            false => relu(first.forward(y)),
        };
        let y = self.convolve(layer + 1, y);
        let y = match self.fast {
            true => fast::norm(second, y),
            false => second.forward(y),
        };
        self.pool.forward(relu(x + y))
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.block(0, images);
        let x = match self.residual {
            true => (1..7).step_by(2).fold(x, |x, i| self.residual_block(i, x)),
            false => (1..4).fold(x, |x, i| self.block(i, x)),
        };
        self.head.forward(x.flatten(1, 3))
    }
}

fn main() {
    let arg = leap_tests::arguments();
    let number = |i: usize, default: &str| arg(i, default).parse::<usize>().expect("a number");
    let device = leap_core::device(&arg(0, "flex"))
        .expect("a device of this build")
        .autodiff();
    let (lanes, seconds) = (number(1, "1"), number(2, "6"));
    let train = || {
        let mut net = Net::new(
            &device,
            arg(3, "fast") == "fast",
            arg(4, "plain") == "residual",
        );
        let images = Tensor::<4>::random([20, 3, 32, 32], Distribution::Default, &device);
        let classes = Tensor::<1, Int>::arange(0..20, &device);
        let loss = CrossEntropyLossConfig::new().init(&device);
        let mut optimizer = SgdConfig::new().init();
        let mut step = || {
            let loss = loss.forward(net.forward(images.clone()), classes.clone());
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = optimizer.step(0.01, net.clone(), grads);
        };
        (0..3).for_each(|_| step());
        let (mut done, start) = (0, Instant::now());
        while start.elapsed().as_secs_f64() < seconds as f64 {
            step();
            done += 1;
        }
        f64::from(done) / start.elapsed().as_secs_f64()
    };
    let rate: f64 = std::thread::scope(|scope| {
        let lane = || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            pool.expect("a pool of threads").install(train)
        };
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().expect("no panic"))
            .sum()
    });
    println!("{rate} {}", leap_tests::peak_memory());
}
