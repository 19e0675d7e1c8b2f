//! A network of a reader's own, with our code behind Burn's layers or with Burn's: four times convolution 3 x 3,
//! normalization, ReLU, pooling, on images of 3 x 32 x 32, trained by SGD. Prints training steps a second over the whole
//! machine, and the peak memory in MiB.
//!
//! ```text
//! cargo bench --profile dev --bench own_network -- [DEVICE] [LANES] [SECONDS] [fast|burn]
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
}

impl Net {
    fn new(device: &Device, fast: bool) -> Self {
        let convolution = |channels| {
            Conv2dConfig::new([channels, 64], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self {
            convolutions: [3, 64, 64, 64].map(convolution).into(),
            norms: (0..4)
                .map(|_| BatchNormConfig::new(64).init(device))
                .collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            head: LinearConfig::new(256, 20).init(device),
            fast,
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let blocks = self.convolutions.iter().zip(&self.norms);
        let x = blocks.fold(images, |x, (convolution, norm)| match self.fast {
            true => fast::norm_relu_pool(norm, fast::conv2d(convolution, x)),
            false => {
                let x = relu(norm.forward(convolution.forward(x)));
                self.pool.forward(x)
            }
        });
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
        let mut net = Net::new(&device, arg(3, "fast") == "fast");
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
